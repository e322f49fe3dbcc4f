"""Assigns the prompts of a folder of recorded outcomes jointly, and tells what truly came of it."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.assignment import Assignment, Lines, Supplies, assign_greedily, assign_jointly
from workers.documents import load_document
from workers.errors import UsageError
from workers.simulation.recorded import MOST_LABELS, Recorded, Rows

CONVENTIONS = {
    "protocol": "map, prior of error rates and lengths from train; error rates from at most 400 val labels "
    "per LLM; assigned is every prompt that each LLM has a score for, of all splits, or of the split named",
    "cost_usd": "expected USD of the assignment, which the budget bounds; realised_cost_usd was recorded",
    "predicted_quality": "mean over prompts of 1 - predicted error; realised_quality: mean recorded score",
    "lp_bound": "no assignment, whole or fractional, has a greater predicted_quality",
    "dual_prices": "predicted quality, summed over prompts, that one more unit would buy: a USD of budget "
    "(lambda), a request or a token of an LLM's capacity; LLMs with capacity to spare are left out",
    "gap": "(lp_bound - predicted_quality) / lp_bound",
    "greedy": "Routoo's selector: in order, the LLM with the most quality per USD that still fits; prompts "
    "left out score 0",
    "seconds": "of the joint assignment alone",
    "peak_rss_mib": "of the whole process",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacities:
    """What each LLM takes; ``None``: no limit on any."""

    #: (H,): prompts, and tokens of prompts with their answers; ``inf`` where not limited.
    requests: NDArray[np.float64] | None = None
    tokens: NDArray[np.float64] | None = None


def read_capacities(path: Path, names: Sequence[str]) -> Capacities:
    """Read YAML or JSON of ``LLM: {requests: N, tokens: N}``, either or both; other LLMs are not limited.

    ``UsageError`` names the file, the LLM and the key.
    """
    found = load_document(path)
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{path} limits no LLM: give LLM: {{requests: N, tokens: N}}")
    limits = {key: np.full(len(names), np.inf) for key in ("requests", "tokens")}
    for name, values in found.items():
        if name not in names:
            raise UsageError(f"{path}: no LLM is named {name!r}; there are: {', '.join(names)}")
        if not isinstance(values, dict) or not values:
            raise UsageError(f"{path}: {name}: give {{requests: N}}, {{tokens: N}} or both")
        for key, value in values.items():
            if key not in limits:
                raise UsageError(f"{path}: {name}: unknown key {str(key)!r}; known: requests, tokens")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
                raise UsageError(f"{path}: {name}: {key} is {value!r}: give a number of at least 0")
            limits[key][names.index(name)] = float(value)
    return Capacities(**{key: value for key, value in limits.items() if np.isfinite(value).any()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A joint assignment of recorded prompts, with the greedy one beside it."""

    recorded: Recorded
    rows: Rows
    budget_usd: float
    lines: Lines
    joint: Assignment
    greedy: Assignment
    labels: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Give the report."""
        n = max(len(self.rows), 1)
        return {
            "dataset": self.recorded.dataset,
            "prompts": len(self.rows),
            "llms": len(self.recorded.llms),
            "budget_usd": self.budget_usd,
            **self._sum_up(self.joint),
            "lp_bound": self.joint.bound / n,
            "gap": self.joint.gap,
            "dual_prices": self._dual_prices(),
            "greedy": self._sum_up(self.greedy),
            "seconds": self.seconds,
            "peak_rss_mib": _peak_rss_mib(),
            "labels": self.labels,
            "cost_source": self.recorded.cost_source,
            "conventions": CONVENTIONS,
        }

    def _dual_prices(self) -> dict[str, Any] | None:
        """Give what one more unit of each supply would buy; of capacities, those that are in the way."""
        prices = self.joint.prices
        if prices is None:
            return None
        scarce = {
            key: {
                name: float(price) for name, price in zip(self.recorded.names, values, strict=True) if price
            }
            for key, values in (("per_request", prices.per_request), ("per_token", prices.per_token))
        }
        return {"error_per_usd": prices.error_per_usd, **scarce}

    def _sum_up(self, found: Assignment) -> dict[str, Any]:
        n = max(len(self.rows), 1)
        llms = found.llms
        served = np.flatnonzero(llms >= 0)
        rows, columns = self.rows[served], llms[served]
        counts = np.bincount(columns, minlength=len(self.recorded.llms))
        return {
            "cost_usd": found.cost_usd,
            "realised_cost_usd": float(self.recorded.costs[rows, columns].sum()),
            "predicted_quality": found.quality / n,
            "realised_quality": float(self.recorded.scores[rows, columns].sum()) / n,
            "left_out": len(llms) - len(served),
            "calls": {
                name: int(count) for name, count in zip(self.recorded.names, counts, strict=True) if count
            },
        }


def assign_recorded(
    recorded: Recorded,
    rows: Rows,
    *,
    budget_usd: float,
    capacities: Capacities | None = None,
    labels: int = MOST_LABELS,
    seed: int = 0,
) -> Assigned:
    """Assign these prompts under a budget of expected USD and capacities.

    Error rates come from at most ``labels`` val labels of each LLM. Raises ``InfeasibleError`` telling what
    is short and by how much.
    """
    taught = np.random.default_rng([seed, 5]).permutation(recorded.val)[:labels]
    candidates = recorded.candidates(recorded.teach(taught), rows)
    capacities = capacities or Capacities()
    lines = Lines(
        errors=candidates.errors,
        costs=candidates.costs,
        tokens=None if capacities.tokens is None else recorded.expected_tokens(rows),
    )
    supplies = Supplies(budget_usd=budget_usd, requests=capacities.requests, tokens=capacities.tokens)
    started = time.perf_counter()
    joint = assign_jointly(lines, supplies, names=recorded.names)
    seconds = time.perf_counter() - started
    return Assigned(
        recorded=recorded,
        rows=rows,
        budget_usd=budget_usd,
        lines=lines,
        joint=joint,
        greedy=assign_greedily(lines, supplies),
        labels=len(taught),
        seconds=seconds,
    )


def _peak_rss_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
