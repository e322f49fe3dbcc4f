"""A budget spent over recorded traffic: each prompt at the lambda that what is left affords, never more."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routing.policies import Candidates, Lagrangian, LoggedDraws, PlannedPacing, PlannedState, SpendingPlan

#: What is held back from the target, so that the last answers' lengths cannot break the ceiling.
_RESERVE = 0.001
_NO_DRAWS = LoggedDraws(np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """Choices under a budget."""

    #: (n,): columns, -1 where nothing fitted into what was left.
    llms: NDArray[np.int64]
    #: (n,): USD that were paid, and whether the answer was cut off there.
    costs: NDArray[np.float64]
    cut: NDArray[np.bool_]
    #: Their sum, added up in the order of the prompts.
    spent_usd: float
    #: Whether the budget was in the way: lambda was above 0 for most of the prompts.
    constrained: bool


def pace(
    candidates: Candidates,
    ceilings: NDArray[np.float64],
    paid: NDArray[np.float64],
    *,
    budget_usd: float,
    plan: SpendingPlan,
) -> Paced:
    """Choose for n prompts in their order, paying (n, H) ``paid`` USD as soon as each is chosen.

    Each prompt is offered what fits into the remainder of ``budget_usd`` even if its answer is as long as
    hardly any (``ceilings``, (n, H)), and sent at the lambda of ``PlannedPacing``. An answer that is longer
    still is cut off where the remainder ends, as the ``max_tokens`` of a call does it.
    """
    n = len(ceilings)
    pacing = PlannedPacing(plan=plan, budget_usd=budget_usd * (1 - _RESERVE), prompts=max(n, 1))
    state = PlannedState()
    llms = np.full(n, -1, dtype=np.int64)
    costs, cut = np.zeros(n), np.zeros(n, dtype=np.bool_)
    pressed = 0
    for row in range(n):
        error_per_usd = pacing.error_per_usd(state)
        pressed += error_per_usd > 0
        one = candidates.rows(slice(row, row + 1))
        affordable = state.spent_usd + ceilings[row] <= budget_usd
        fitting = replace(one, allowed=one.allowed & affordable[None])
        llms[row] = Lagrangian(error_per_usd).choose(fitting, rng=_NO_DRAWS).llms[0]
        if llms[row] >= 0:
            cut[row] = state.spent_usd + paid[row, llms[row]] > budget_usd
            costs[row] = budget_usd - state.spent_usd if cut[row] else paid[row, llms[row]]
        state = pacing.advance(state, float(costs[row]))
    return Paced(llms=llms, costs=costs, cut=cut, spent_usd=state.spent_usd, constrained=pressed * 2 > n)
