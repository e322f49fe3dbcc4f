"""A budget spent over recorded traffic: lambda follows what was paid, under a ceiling that nothing breaks."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routing.policies import Candidates, Lagrangian, LoggedDraws, Pacing, left_per_prompt

#: What is held back from the target, so that the last answers' lengths cannot break the ceiling.
_RESERVE = 0.002
_NO_DRAWS = LoggedDraws(np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """Choices under a budget."""

    #: (n,): columns, -1 where nothing fitted into what was left.
    llms: NDArray[np.int64]
    #: Whether the budget was in the way: lambda was above 0 for most of the prompts.
    constrained: bool


def pace(
    candidates: Candidates,
    ceilings: NDArray[np.float64],
    paid: NDArray[np.float64],
    *,
    budget_usd: float,
    start: float,
) -> Paced:
    """Choose for n prompts in their order, paying (n, H) ``paid`` USD as soon as each is chosen.

    Each prompt is offered what fits into the remainder of ``budget_usd`` even if its answer is as long as
    hardly any (``ceilings``, (n, H)); from ``start`` on, lambda follows the spending (``Pacing``), and its
    target what is left per prompt still to come.
    """
    n = len(ceilings)
    goal = budget_usd * (1 - _RESERVE)
    pacing = Pacing(target_usd=goal / max(n, 1))
    state = pacing.start(start)
    llms = np.full(n, -1, dtype=np.int64)
    pressed = 0
    for row in range(n):
        one = candidates.rows(slice(row, row + 1))
        fitting = replace(one, allowed=one.allowed & (ceilings[row] <= budget_usd - state.spent_usd)[None])
        llms[row] = Lagrangian(state.error_per_usd).choose(fitting, rng=_NO_DRAWS).llms[0]
        cost = float(paid[row, llms[row]]) if llms[row] >= 0 else 0.0
        pressed += state.error_per_usd > 0
        target = left_per_prompt(goal, state.spent_usd + cost, n - row - 1)
        state = pacing.advance(state, [cost])
        pacing = pacing.retarget(max(target, 1e-3 * goal / max(n, 1)))
    return Paced(llms=llms, constrained=pressed * 2 > n)
