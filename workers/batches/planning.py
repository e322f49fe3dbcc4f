"""The plan of a batch: what lambda its budget or its quality means, and what will come of that."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.assignment import Lines as AssignmentLines
from routing.assignment import Prices, assign_jointly
from routing.errors import InfeasibleError, InvalidInputError, UnknownLLMError
from routing.policies import Candidates, Lagrangian, Policy
from routing.snapshot import Snapshot
from workers.batches.capacities import Capacities
from workers.batches.ingest import Lines
from workers.batches.summing import Asked, Summed, sum_up
from workers.batches.vectors import Vectors
from workers.errors import UsageError

#: A lambda at which nothing but cost counts, and one at which it hardly does.
_GREATEST, _LEAST = 1e12, 1e-9
_HALVINGS = 90
_Z95 = 1.96
#: Limits that do not let all lines be answered in time are taken to be so many times higher, and once more.
_EASED = 1.25


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
    #: Mean of 1 - predicted error, and a 95 % interval of the mean that will be seen: by the chance of each
    #: answer, and by how well error rates are known, as if all erred together. That the rates are of other
    #: prompts than these, or have moved since, is not in it.
    quality: float = 0.0
    quality_interval: tuple[float, float] = (0.0, 0.0)
    #: Lines and USD of each LLM.
    llms: dict[str, dict[str, float]] = {}
    #: ``budget``, ``quality``, ``capacity of LLM`` or nothing: what holds the choice back most. ``deadline``:
    #: the LLMs' limits do not let all lines be answered in time, whoever takes them.
    binds: str | None = None
    #: Error added to an LLM's score by line: what a place at an LLM is worth that has too few of them.
    surcharges: dict[str, float] = {}
    #: Seconds that answering these lines takes, at the least: by the LLMs' limits, and by how long calls
    #: take; ``None`` where nothing is known of either.
    seconds: float | None = None
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
    #: What the LLMs take until the deadline.
    capacities: Capacities = field(default_factory=Capacities)
    spent_usd: float = 0.0
    correction: float = 1.0


def make_plan(
    lines: Lines,
    vectors: Vectors,
    rows: range,
    snapshot: Snapshot,
    goal: Goal,
    *,
    number: int = 1,
    reason: str = "first",
    most: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Plan:
    """Plan ``rows`` of the batch.

    Up to 20,000 lines are assigned one by one; more are summed up first, or a sample of ``most`` of them. The
    joint assignment's price of a USD is the lambda by which each line is decided, and the price of an LLM's
    capacity its surcharge. Lines that name a policy of their own are planned as the others are. Raises
    ``UsageError`` for a policy that cannot choose.
    """
    looked_at = sum_up(
        Asked(
            lines=lines,
            vectors=vectors,
            rows=rows,
            snapshot=snapshot,
            candidates=goal.candidates,
            stopped=stopped,
            most=most,
        )
    )
    found = _find_prices(looked_at.lines, goal, snapshot)
    outcome = _expect(looked_at, found, goal, snapshot)
    return Plan(
        number=number,
        error_per_usd=None if goal.policy is not None else found.error_per_usd,
        policy=goal.policy_name,
        lines=len(rows),
        unservable=looked_at.unservable,
        input_tokens=looked_at.input_tokens,
        lines_usd=outcome.usd,
        total_usd=goal.spent_usd + outcome.usd,
        floor_usd=outcome.floor_usd,
        quality=outcome.quality,
        quality_interval=outcome.quality_interval,
        llms=outcome.llms,
        binds=found.binds,
        short_usd=found.short_usd,
        surcharges=found.surcharges,
        seconds=goal.capacities.seconds(looked_at, outcome.chosen, snapshot.names),
        correction=goal.correction,
        reason=reason,
        versions={"map": snapshot.cluster_map.version, **_versions(snapshot)},
    )


def _versions(snapshot: Snapshot) -> dict[str, str]:
    return {"rates": snapshot.versions.error_rates, "prices": snapshot.versions.prices}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The prices by which lines are decided, what binds, and by how many USD the budget is short."""

    error_per_usd: float = 0.0
    surcharges: dict[str, float] = field(default_factory=dict)
    binds: str | None = None
    short_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What is expected of lines that are decided by some prices."""

    #: The column of each group's LLM, shape (G,); -1 for none.
    chosen: NDArray[np.int64]
    usd: float
    floor_usd: float
    quality: float
    quality_interval: tuple[float, float]
    llms: dict[str, dict[str, float]]


def _expect(looked_at: Summed, found: _Found, goal: Goal, snapshot: Snapshot) -> _Outcome:
    """Decide the groups by the goal's policy, else by the prices, and sum up what that comes to."""
    summed = looked_at.lines
    policy = goal.policy or Lagrangian(found.error_per_usd, tuple(sorted(found.surcharges.items())))
    chosen = _choose(looked_at, policy, snapshot)
    sizes, served = summed.sizes, chosen >= 0
    picked = np.maximum(chosen, 0)[:, None]
    costs = goal.correction * np.take_along_axis(summed.costs, picked, axis=1)[:, 0] * sizes * served
    errors = np.take_along_axis(summed.errors, picked, axis=1)[:, 0] * sizes * served
    cheapest = np.where(summed.open, summed.costs, np.inf).min(axis=1, initial=np.inf)
    n = int((sizes * served).sum())
    quality = 1.0 - float(errors.sum()) / max(1, n)
    doubt = 0.0
    if looked_at.deviations is not None:
        deviations = np.take_along_axis(looked_at.deviations, picked, axis=1)[:, 0]
        doubt = float((deviations * sizes * served).sum()) / max(1, n)
    spread = _Z95 * math.sqrt(max(quality * (1 - quality), 0.0) / max(1, n) + doubt**2)
    return _Outcome(
        chosen=chosen,
        usd=float(costs.sum()),
        floor_usd=goal.correction * float((cheapest * sizes).sum()),
        quality=quality,
        quality_interval=(max(0.0, quality - spread), min(1.0, quality + spread)),
        llms=_share(snapshot.names, chosen, sizes, costs),
    )


def _share(
    names: tuple[str, ...], chosen: NDArray[np.int64], sizes: NDArray[np.int64], costs: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    return {
        name: {"lines": float(sizes[chosen == column].sum()), "usd": float(costs[chosen == column].sum())}
        for column, name in enumerate(names)
        if np.any(chosen == column)
    }


def _find_prices(summed: AssignmentLines, goal: Goal, snapshot: Snapshot) -> _Found:
    """Give dual prices that meet the goal; where it cannot be met, those of the cheapest service."""
    if goal.policy is not None:
        return _Found()
    budget = math.inf if goal.budget_usd is None else max(0.0, goal.budget_usd / goal.correction)
    supplies = goal.capacities.supplies(summed, snapshot.names, budget_usd=budget)
    try:
        found = _read_prices(assign_jointly(summed, supplies).prices, summed, snapshot.names)
    except InfeasibleError as error:
        short = float(error.short.get("budget_usd", 0.0)) * goal.correction
        if not short and (supplies.requests is not None or supplies.tokens is not None):
            eased = replace(goal, capacities=goal.capacities.eased(_EASED))
            return replace(_find_prices(summed, eased, snapshot), binds="deadline")
        found = _Found(error_per_usd=_GREATEST, binds="budget", short_usd=short)
    if goal.min_quality is None:
        return found
    surcharges = np.array([found.surcharges.get(name, 0.0) for name in snapshot.names])
    thrifty = _thriftiest(summed, goal.min_quality, surcharges)
    if not thrifty and surcharges.any() and (free := _thriftiest(summed, goal.min_quality)):
        # The quality was promised; how many lines an LLM takes in time is a guess.
        found, thrifty = replace(found, surcharges={}, binds="quality"), free
    if thrifty > found.error_per_usd:
        return replace(found, error_per_usd=thrifty, binds="quality")
    return found


def _read_prices(prices: Prices | None, summed: AssignmentLines, names: tuple[str, ...]) -> _Found:
    """Give the prices as the lines' policy takes them: a token's price is that of a line's mean tokens."""
    if prices is None:
        return _Found()
    each = prices.per_request.copy()
    if summed.tokens is not None and len(summed.sizes):
        each += prices.per_token * np.average(summed.tokens, axis=0, weights=np.maximum(summed.sizes, 1e-9))
    surcharges = {name: float(error) for name, error in zip(names, each, strict=True) if error > _LEAST}
    binds = "budget" if prices.error_per_usd > 0 else None
    if surcharges:
        dearest = max(surcharges, key=lambda name: surcharges[name])
        binds = f"{binds} and capacity of {dearest}" if binds else f"capacity of {dearest}"
    return _Found(error_per_usd=prices.error_per_usd, surcharges=surcharges, binds=binds)


def _thriftiest(
    summed: AssignmentLines, quality: float, surcharges: NDArray[np.float64] | float = 0.0
) -> float:
    """Give the greatest lambda at which the mean quality is still reached; 0 where none does.

    ``surcharges`` is added to the LLMs' scores, shape (H,).
    """
    low, high = math.log(_LEAST), math.log(_GREATEST)

    def reached(error_per_usd: float) -> bool:
        scores = np.where(summed.open, summed.errors + error_per_usd * summed.costs + surcharges, np.inf)
        picked = scores.argmin(axis=1)[:, None]
        errors = np.take_along_axis(summed.errors, picked, axis=1)[:, 0]
        return 1.0 - float((errors * summed.sizes).sum()) / max(1, int(summed.sizes.sum())) >= quality

    if not reached(_LEAST):
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(math.exp(middle)) else (low, middle)
    return math.exp(low)


def _choose(looked_at: Summed, policy: Policy, snapshot: Snapshot) -> NDArray[np.int64]:
    summed = looked_at.lines
    candidates = Candidates(
        errors=summed.errors,
        costs=summed.costs,
        allowed=summed.open,
        names=snapshot.names,
        deviations=looked_at.deviations,
    )
    try:
        return policy.choose(candidates, rng=np.random.default_rng(0)).llms
    except (UnknownLLMError, InvalidInputError) as error:  # it names one that has left, say
        raise UsageError(f"the policy cannot choose: {error}") from error


def as_facts(plan: Plan) -> Mapping[str, Any]:
    """Give a plan as JSON can hold it."""
    found: Mapping[str, Any] = msgspec.to_builtins(plan)
    return found


def read_plan(facts: Mapping[str, Any] | None) -> Plan | None:
    """Read what ``as_facts`` gave."""
    return None if facts is None else msgspec.convert(dict(facts), Plan)
