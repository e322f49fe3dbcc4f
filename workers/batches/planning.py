"""The plan of a batch: what lambda its budget or its quality means, and what will come of that."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.assignment import Aggregates, Supplies, assign_jointly
from routing.assignment import Lines as AssignmentLines
from routing.decisions import Decisions, decide_placed
from routing.errors import InfeasibleError
from routing.policies import Candidates, Lagrangian, Policy
from routing.requests import Limits
from routing.snapshot import Snapshot
from workers.batches.ingest import Lines, StoppedError
from workers.batches.vectors import Vectors

#: Up to so many lines each is planned as it is; more are summed up in groups.
_SINGLE_LINES = 20_000
_BLOCK = 4_096
#: A lambda at which nothing but cost counts, and one at which it hardly does.
_GREATEST, _LEAST = 1e12, 1e-9
_HALVINGS = 90
_Z95 = 1.96


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of the lines that are still to be dispatched; predictions, all of it."""

    #: 1 for the first plan of a batch.
    number: int
    #: Lambda; ``None`` where a named policy decides.
    error_per_usd: float | None
    policy: str | None = None
    #: Lines that are planned for, and those of them that no LLM may take.
    lines: int
    unservable: int = 0
    input_tokens: float = 0.0
    #: USD of these lines, and of the whole batch with what was spent and reserved before.
    lines_usd: float = 0.0
    total_usd: float = 0.0
    #: USD of these lines if each went to the cheapest LLM that it may take.
    floor_usd: float = 0.0
    #: Mean of 1 - predicted error, and a 95 % interval of the mean that will be seen.
    quality: float = 0.0
    quality_interval: tuple[float, float] = (0.0, 0.0)
    #: Lines and USD of each LLM.
    llms: dict[str, dict[str, float]] = {}
    #: ``budget``, ``quality`` or nothing: what holds the choice back.
    binds: str | None = None
    #: USD by which the budget misses the cheapest service of all lines.
    short_usd: float = 0.0
    #: By how much answers cost more than was predicted for them so far, as a factor.
    correction: float = 1.0
    #: Why it was made.
    reason: str = "first"
    versions: dict[str, str] = {}
    made_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a plan is to meet."""

    #: USD for the lines to plan; ``None``: no budget.
    budget_usd: float | None = None
    min_quality: float | None = None
    #: A policy by name, where one decides, and its choice.
    policy_name: str | None = None
    policy: Policy | None = None
    #: The LLMs that the tenant may use; ``None``: any.
    candidates: frozenset[str] | None = None
    spent_usd: float = 0.0
    correction: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be planned, from what, and for what."""

    lines: Lines
    vectors: Vectors
    rows: range
    snapshot: Snapshot
    goal: Goal
    stopped: Callable[[], bool]


@dataclass(slots=True)
class _Sums:
    counts: int = 0
    tokens: float = 0.0
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    costs: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def make_plan(
    lines: Lines,
    vectors: Vectors,
    rows: range,
    snapshot: Snapshot,
    goal: Goal,
    *,
    number: int = 1,
    reason: str = "first",
    stopped: Callable[[], bool] = lambda: False,
) -> Plan:
    """Plan ``rows`` of the batch.

    Up to 20,000 lines are assigned one by one; more are summed up by cell, length and what their limits
    leave, so that the programme's size does not grow with the file. The joint assignment's price of a USD is
    the lambda by which each line is decided.
    """
    asked = _Asked(lines=lines, vectors=vectors, rows=rows, snapshot=snapshot, goal=goal, stopped=stopped)
    summed, unservable, tokens = _sum_up(asked)
    error_per_usd, binds, short = _find_lambda(summed, goal)
    policy = goal.policy or Lagrangian(error_per_usd or 0.0)
    chosen = _choose(summed, policy, snapshot)
    sizes, served = summed.sizes, chosen >= 0
    picked = np.maximum(chosen, 0)[:, None]
    costs = goal.correction * np.take_along_axis(summed.costs, picked, axis=1)[:, 0] * sizes * served
    errors = np.take_along_axis(summed.errors, picked, axis=1)[:, 0] * sizes * served
    cheapest = np.where(summed.open, summed.costs, np.inf).min(axis=1, initial=np.inf)
    n = int((sizes * served).sum())
    quality = 1.0 - float(errors.sum()) / max(1, n)
    spread = _Z95 * math.sqrt(max(quality * (1 - quality), 0.0) / max(1, n))
    return Plan(
        number=number,
        error_per_usd=None if goal.policy is not None else error_per_usd,
        policy=goal.policy_name,
        lines=len(rows),
        unservable=unservable,
        input_tokens=tokens,
        lines_usd=float(costs.sum()),
        total_usd=goal.spent_usd + float(costs.sum()),
        floor_usd=goal.correction * float((cheapest * sizes).sum()),
        quality=quality,
        quality_interval=(max(0.0, quality - spread), min(1.0, quality + spread)),
        llms=_share(snapshot.names, chosen, sizes, costs),
        binds=binds,
        short_usd=short,
        correction=goal.correction,
        reason=reason,
        versions={"map": snapshot.cluster_map.version, **_versions(snapshot)},
    )


def _versions(snapshot: Snapshot) -> dict[str, str]:
    return {"rates": snapshot.versions.error_rates, "prices": snapshot.versions.prices}


def _share(
    names: tuple[str, ...], chosen: NDArray[np.int64], sizes: NDArray[np.int64], costs: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    return {
        name: {"lines": float(sizes[chosen == column].sum()), "usd": float(costs[chosen == column].sum())}
        for column, name in enumerate(names)
        if np.any(chosen == column)
    }


def _find_lambda(summed: AssignmentLines, goal: Goal) -> tuple[float | None, str | None, float]:
    """Give lambda, what binds, and by how many USD the budget is short of the cheapest service."""
    if goal.policy is not None:
        return None, None, 0.0
    lambda_budget, short = 0.0, 0.0
    if goal.budget_usd is not None:
        supplies = Supplies(budget_usd=max(0.0, goal.budget_usd / goal.correction))
        try:
            prices = assign_jointly(summed, supplies).prices
            lambda_budget = 0.0 if prices is None else prices.error_per_usd
        except InfeasibleError as error:
            lambda_budget, short = _GREATEST, float(error.short.get("budget_usd", 0.0)) * goal.correction
    lambda_quality = 0.0 if goal.min_quality is None else _thriftiest(summed, goal.min_quality)
    if lambda_quality > lambda_budget:
        return lambda_quality, "quality", short
    return lambda_budget, "budget" if lambda_budget > 0 else None, short


def _thriftiest(summed: AssignmentLines, quality: float) -> float:
    """Give the greatest lambda at which the mean quality is still reached; 0 where none does."""
    low, high = math.log(_LEAST), math.log(_GREATEST)

    def reached(error_per_usd: float) -> bool:
        scores = np.where(summed.open, summed.errors + error_per_usd * summed.costs, np.inf)
        picked = scores.argmin(axis=1)[:, None]
        errors = np.take_along_axis(summed.errors, picked, axis=1)[:, 0]
        return 1.0 - float((errors * summed.sizes).sum()) / max(1, int(summed.sizes.sum())) >= quality

    if not reached(_LEAST):
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(math.exp(middle)) else (low, middle)
    return math.exp(low)


def _choose(summed: AssignmentLines, policy: Policy, snapshot: Snapshot) -> NDArray[np.int64]:
    candidates = Candidates(
        errors=summed.errors, costs=summed.costs, allowed=summed.open, names=snapshot.names
    )
    return policy.choose(candidates, rng=np.random.default_rng(0)).llms


def _sum_up(asked: _Asked) -> tuple[AssignmentLines, int, float]:
    """Give the lines to assign, how many have no LLM at all, and the input tokens of all."""
    n_llms, rows = len(asked.snapshot.names), asked.rows
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]] = []
    groups: dict[bytes, _Sums] = {}
    unservable, tokens = 0, 0.0
    for decisions, input_tokens in _predict(asked):
        mask = decisions.allowed.mask
        served: NDArray[np.bool_] = np.any(mask, axis=1)
        unservable += int((~served).sum())
        tokens += float(input_tokens.sum())
        if len(rows) <= _SINGLE_LINES:
            parts.append((decisions.errors[served], decisions.costs[served], mask[served]))
        else:
            _add_groups(groups, decisions, input_tokens, served)
    if len(rows) <= _SINGLE_LINES:
        empty = np.empty((0, n_llms))
        return (
            AssignmentLines(
                errors=np.concatenate([empty, *(one for one, _, _ in parts)]),
                costs=np.concatenate([empty, *(one for _, one, _ in parts)]),
                allowed=np.concatenate([empty.astype(np.bool_), *(one for _, _, one in parts)]),
            ),
            unservable,
            tokens,
        )
    aggregates = Aggregates(
        np.array([one.counts for one in groups.values()], dtype=np.int64),
        np.array([one.errors for one in groups.values()]).reshape(-1, n_llms),
        np.array([one.costs for one in groups.values()]).reshape(-1, n_llms),
    ).lines()
    allowed = np.array([_read_mask(key, n_llms) for key in groups]).reshape(-1, n_llms)
    summed = AssignmentLines(
        errors=aggregates.errors, costs=aggregates.costs, counts=aggregates.counts, allowed=allowed
    )
    return summed, unservable, tokens


def _predict(asked: _Asked) -> Iterator[tuple[Decisions, NDArray[np.float64]]]:
    for start in range(asked.rows.start, asked.rows.stop, _BLOCK):
        if asked.stopped():
            raise StoppedError
        block = slice(start, min(start + _BLOCK, asked.rows.stop))
        tokens, limits = asked.lines.tokens(block), asked.lines.limits(block)
        if asked.goal.candidates is not None:
            allowed = Limits(candidates=asked.goal.candidates)
            narrowed = {one: one.tightened(allowed) for one in set(limits)}
            limits = [narrowed[one] for one in limits]
        placement = asked.snapshot.cluster_map.place(asked.vectors.read(block))
        yield (
            decide_placed(
                placement,
                tokens,
                _none_if_free(limits),
                asked.snapshot,
                Lagrangian(0.0),
                rng=np.random.default_rng(0),
            ),
            tokens,
        )


def _none_if_free(limits: list[Limits]) -> list[Limits] | None:
    """Spare the core a look at each line where no line limits anything."""
    free = Limits()
    return None if all(one == free for one in set(limits)) else limits


def _add_groups(
    groups: dict[bytes, _Sums],
    decisions: Decisions,
    tokens: NDArray[np.float64],
    served: NDArray[np.bool_],
) -> None:
    """Add a block to the sums of its groups: finest cell, power of two of the length, mask of the limits."""
    cells = decisions.cells[:, -1].astype("<i4")
    bands = np.log2(np.maximum(tokens, 1)).astype("<i4")
    masks = np.packbits(decisions.allowed.mask, axis=1)
    keys = np.concatenate([cells[:, None].view(np.uint8), bands[:, None].view(np.uint8), masks], axis=1)
    found, inverse = np.unique(keys[served], axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    summed = Aggregates.of(inverse, decisions.errors[served], decisions.costs[served], n_groups=len(found))
    for row, key in enumerate(found):
        group = groups.setdefault(key.tobytes(), _Sums())
        first = group.counts == 0
        group.counts += int(summed.counts[row])
        group.errors = summed.errors[row] if first else group.errors + summed.errors[row]
        group.costs = summed.costs[row] if first else group.costs + summed.costs[row]


def _read_mask(key: bytes, n_llms: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(key[8:], dtype=np.uint8))[:n_llms].astype(np.bool_)


def as_facts(plan: Plan) -> Mapping[str, Any]:
    """Give a plan as JSON can hold it."""
    found: Mapping[str, Any] = msgspec.to_builtins(plan)
    return found


def read_plan(facts: Mapping[str, Any] | None) -> Plan | None:
    """Read what ``as_facts`` gave."""
    return None if facts is None else msgspec.convert(dict(facts), Plan)
