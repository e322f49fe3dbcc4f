"""Spend a budget by plan: what each lambda costs is known beforehand, so that none need be groped for."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, LoggedDraws
from routing.policies.lagrangian import Lagrangian

#: Lambdas of a plan, times 1 / mean cost: 12 % apart, and 0 before them.
_GRID = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 142)])
#: Prompts of mean cost that stand against what was paid so far: how slowly expectations are doubted.
_TRUST = 50.0
#: Expectations are never taken to be further off than by this factor.
_DOUBT = 2.0
#: More than any LLM is worth; finite, so that JSON and Postgres can hold it.
MOST_ERROR_PER_USD = 1e15
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

        0 where even that costs no more; ``MOST_ERROR_PER_USD`` where the greatest lambda still costs more.
        """
        costs, lambdas = self.mean_costs, self.lambdas
        place = int(np.searchsorted(-costs, -target_usd))
        if place == 0:
            return 0.0
        if place == len(costs):
            return MOST_ERROR_PER_USD
        share = (costs[place - 1] - target_usd) / (costs[place - 1] - costs[place])
        return float(lambdas[place - 1] + share * (lambdas[place] - lambdas[place - 1]))


def plan_spending(candidates: Candidates) -> SpendingPlan:
    """Give the plan of representative prompts; those for which nothing is allowed are left out."""
    known = candidates.rows(np.flatnonzero(candidates.allowed.any(axis=1)))
    scale = float(known.costs.mean()) if known.costs.size else 0.0
    lambdas = _GRID / (scale or 1.0)
    if not len(known.costs):
        return SpendingPlan(lambdas=lambdas, mean_costs=np.zeros_like(lambdas))
    rows = np.arange(len(known.costs))
    # At 0 alone candidates tie often, and the cheaper one wins.
    means = [known.costs[rows, Lagrangian(0.0).choose(known, rng=_NO_DRAWS).llms].mean()]
    errors = np.where(known.allowed, known.errors, np.inf)
    means += [
        known.costs[rows, (errors + tried * known.costs).argmin(axis=1)].mean()
        for tried in lambdas[1:].tolist()
    ]
    return SpendingPlan(lambdas=lambdas, mean_costs=np.minimum.accumulate(means))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the spending of a budget stands; nothing, at its begin."""

    #: USD that prompts cost, of those whose cost is known, and what they were expected to.
    paid_usd: float = 0.0
    expected_usd: float = 0.0
    #: USD that prompts are expected to cost whose cost is not known yet.
    pending_usd: float = 0.0
    #: Prompts so far, those that are pending included.
    prompts: int = 0


def pace_spending(plan: SpendingPlan, standing: Standing, *, budget_usd: float, prompts_left: float) -> float:
    """Give the lambda of the next prompt: the one at which the rest of the budget comes out even.

    What is left per prompt still to come, over how much dearer prompts turned out than expected, is looked up
    in the plan. So lambda does not waver around the right one, as it does where it is moved by what is seen
    (ParetoBandit's pacer, arXiv 2604.00136), and the same USD buy more quality.

    Raises ``InvalidInputError`` for a budget that is not above 0.
    """
    if not (math.isfinite(budget_usd) and budget_usd > 0):
        raise InvalidInputError("budget_usd", f"must be finite and above 0, not {budget_usd!r}")
    to_come = max(prompts_left, 1.0)
    trust = _TRUST * budget_usd / (standing.prompts + to_come)
    dearer = (standing.paid_usd + trust) / (standing.expected_usd + trust)
    dearer = min(max(dearer, 1 / _DOUBT), _DOUBT)
    left = max(budget_usd - standing.paid_usd - dearer * standing.pending_usd, 0.0)
    return plan.error_per_usd(left / to_come / dearer)
