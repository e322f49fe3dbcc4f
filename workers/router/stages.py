"""The stages of a cascade for one prompt, before any was asked: who may be, for how much, and how likely."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.decisions import Decisions
from routing.policies.cascade import bound_escalation, choose_next
from routing.snapshot import Snapshot
from workers.cascades import CascadeSpec
from workers.router.serving import scoring_ceilings


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One LLM that a cascade asks, if it comes to that."""

    llm: str
    predicted_error: float
    #: Expected of its call, and of all calls up to it; the scorer's are in neither.
    cost_usd: float
    cost_so_far_usd: float
    #: What its call hardly exceeds, and the scorer's for its answer; both are reserved.
    ceiling_usd: float
    scoring_usd: float
    #: The least and the greatest probability that it is asked, where the answers' chances of being right are
    #: calibrated; ``None`` where that depends on answers that are not there yet.
    asked: tuple[float, float] | None

    @property
    def most_usd(self) -> float:
        """What the stage hardly exceeds."""
        return self.ceiling_usd + self.scoring_usd


def plan_stages(
    cascade: CascadeSpec,
    llms: Sequence[str],
    decisions: Decisions,
    row: int,
    snapshot: Snapshot,
    *,
    prompt_bytes: int,
    input_tokens: float,
    most_tokens: float | None,
) -> tuple[Stage, ...]:
    """Give the stages of a cascade over ``llms``, those that the limits leave; none where nobody was chosen.

    By gain the order is that in which they would be asked if no answer were worth anything.
    """
    chosen = decisions.llm(row)
    if chosen is None:
        return ()
    removed = decisions.removed(row)
    rest = [name for name in dict.fromkeys(llms) if name not in {chosen, *removed}]
    asked = (chosen, *_order(cascade, rest, decisions, row))
    scoring = scoring_ceilings(
        cascade,
        decisions,
        row,
        snapshot,
        asked=asked,
        prompt_bytes=prompt_bytes,
        input_tokens=input_tokens,
        most_tokens=most_tokens,
    )
    columns = [decisions.names.index(name) for name in asked]
    errors, costs = decisions.errors[row, columns], decisions.costs[row, columns]
    second = _bound_second(cascade, errors, costs)
    chances: list[tuple[float, float] | None] = [(1.0, 1.0), second]
    return tuple(
        Stage(
            llm=name,
            predicted_error=float(errors[place]),
            cost_usd=float(costs[place]),
            cost_so_far_usd=float(costs[: place + 1].sum()),
            ceiling_usd=float(decisions.ceilings[row, columns[place]]),
            scoring_usd=scoring[place],
            asked=chances[place] if place < len(chances) else None,
        )
        for place, name in enumerate(asked)
    )


def _order(cascade: CascadeSpec, names: Sequence[str], decisions: Decisions, row: int) -> list[str]:
    """Give who is asked next and after that."""
    if cascade.error_per_usd is None:
        return list(names)
    left, ordered = list(names), []
    while left:
        columns = [decisions.names.index(name) for name in left]
        place = choose_next(
            0.0,
            decisions.errors[row, columns],
            decisions.costs[row, columns],
            error_per_usd=cascade.error_per_usd,
        )
        if place is None:
            break
        ordered.append(left.pop(place))
    return ordered


def _bound_second(
    cascade: CascadeSpec, errors: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[float, float]:
    """Bound the probability that the second LLM is asked: the answer is not taken, and is not hopeless."""
    error = float(errors[0])
    least, most = bound_escalation(error, accept_at=_accepted_at(cascade, errors[1:], costs[1:]))
    _, hopeless = bound_escalation(error, accept_at=cascade.abstain_below)
    return max(0.0, least - hopeless), most


def _accepted_at(cascade: CascadeSpec, errors: NDArray[np.float64], costs: NDArray[np.float64]) -> float:
    """Give the chance of being right from which the first answer is taken; 0 where nobody else is asked.

    By gain another is asked below the chance p at which (1 - p) * (1 - e) = lambda * cost for one of them.
    """
    if not errors.size:
        return 0.0
    if cascade.error_per_usd is None:
        return cascade.accept_at
    worth = 1.0 - errors > cascade.error_per_usd * costs
    if not worth.any():
        return 0.0
    gaining = 1.0 - cascade.error_per_usd * costs[worth] / (1.0 - errors[worth])
    return min(cascade.accept_at, float(gaining.max()))
