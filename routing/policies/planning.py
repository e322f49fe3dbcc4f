"""Spend a budget by plan: what each lambda costs is known beforehand, so that none need be groped for."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, LoggedDraws
from routing.policies.lagrangian import Lagrangian

#: Lambdas of a plan, times 1 / mean cost: 12 % apart, and 0 before them.
_GRID = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 142)])
#: Prompts of the target's cost that stand against what was paid so far: how slowly the plan is doubted.
_TRUST = 50.0
#: The plan is never taken to be further off than by this factor.
_DOUBT = 2.0
_NO_DRAWS = LoggedDraws(np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingPlan:
    """What a prompt costs on average at each lambda.

    Raises ``InvalidInputError`` unless lambdas rise from 0 and costs, at least 0, do not.
    """

    #: Shape (L,).
    lambdas: NDArray[np.float64]
    #: Shape (L,): expected USD.
    mean_costs: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.lambdas.shape != self.mean_costs.shape or len(self.lambdas) == 0 or self.lambdas[0] != 0:
            raise InvalidInputError("lambdas", "must begin with 0, and each have its mean cost")
        if np.any(np.diff(self.lambdas) <= 0) or np.any(np.diff(self.mean_costs) > 0):
            raise InvalidInputError("mean_costs", "must fall as lambdas rise")
        if not np.all(np.isfinite(self.lambdas)) or not np.all(self.mean_costs >= 0):
            raise InvalidInputError("mean_costs", "must be at least 0, and lambdas finite")

    def error_per_usd(self, target_usd: float) -> float:
        """Give the lambda at which prompts cost ``target_usd`` each, between two of the plan in proportion.

        0 where even that costs no more; ``inf`` where the greatest lambda still costs more.
        """
        costs, lambdas = self.mean_costs, self.lambdas
        place = int(np.searchsorted(-costs, -target_usd))
        if place == 0:
            return 0.0
        if place == len(costs):
            return math.inf
        share = (costs[place - 1] - target_usd) / (costs[place - 1] - costs[place])
        return float(lambdas[place - 1] + share * (lambdas[place] - lambdas[place - 1]))


def plan_spending(candidates: Candidates) -> SpendingPlan:
    """Give the plan of representative prompts; those for which nothing is allowed are left out."""
    scale = float(candidates.costs.mean()) if candidates.costs.size else 0.0
    lambdas = _GRID / (scale or 1.0)
    costs = []
    for tried in lambdas.tolist():
        llms = Lagrangian(tried).choose(candidates, rng=_NO_DRAWS).llms
        rows = np.flatnonzero(llms >= 0)
        costs.append(float(candidates.costs[rows, llms[rows]].mean()) if len(rows) else 0.0)
    return SpendingPlan(lambdas=lambdas, mean_costs=np.minimum.accumulate(costs))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedState:
    """What planned pacing remembers between prompts."""

    spent_usd: float = 0.0
    prompts: int = 0
    #: Sums of what the plan said the prompts so far would cost, at the lambdas they were sent at, and of
    #: what they did.
    planned_usd: float = 0.0
    paid_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPacing:
    """Spend ``budget_usd`` over ``prompts`` prompts, each at the lambda that the rest of the budget affords.

    Where ``Pacing`` moves lambda by what it sees, and so wavers around the right one, this looks it up: what
    is left per prompt still to come, over how much dearer prompts turned out than planned, is the target of
    the plan. On recorded outcomes it ends nearer to the budget, and its steadier lambda buys more quality for
    the same USD. It needs representative prompts, and the number to come. Pure: state in, new state out.

    Raises ``InvalidInputError`` for a budget or a number that is not above 0.
    """

    plan: SpendingPlan
    budget_usd: float
    prompts: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget_usd) and self.budget_usd > 0):
            raise InvalidInputError("budget_usd", f"must be finite and above 0, not {self.budget_usd!r}")
        if self.prompts < 1:
            raise InvalidInputError("prompts", f"must be at least 1, not {self.prompts!r}")

    def error_per_usd(self, state: PlannedState) -> float:
        """Give the lambda of the next prompt."""
        return self.plan.error_per_usd(self._target(state))

    def advance(self, state: PlannedState, cost_usd: float) -> PlannedState:
        """Give the state after the next prompt, sent at ``error_per_usd(state)``, cost this much."""
        least, most = float(self.plan.mean_costs[-1]), float(self.plan.mean_costs[0])
        planned = min(max(self._target(state), least), most)
        return replace(
            state,
            spent_usd=state.spent_usd + cost_usd,
            prompts=state.prompts + 1,
            planned_usd=state.planned_usd + planned,
            paid_usd=state.paid_usd + cost_usd,
        )

    def _target(self, state: PlannedState) -> float:
        """Give what the next prompt may cost by the plan's own measure."""
        left = max(self.budget_usd - state.spent_usd, 0.0) / max(self.prompts - state.prompts, 1)
        trust = _TRUST * self.budget_usd / self.prompts
        dearer = (state.paid_usd + trust) / (state.planned_usd + trust)
        return left / min(max(dearer, 1 / _DOUBT), _DOUBT)
