"""Spend a budget evenly: lambda follows the spending, and a ceiling stands beside it that nothing breaks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, Choices, Policy, UniformSource


@dataclass(frozen=True, slots=True, kw_only=True)
class PacingState:
    """What pacing remembers between batches."""

    #: Lambda of the next batch.
    error_per_usd: float
    #: Exponential mean of the cost per prompt.
    mean_cost_usd: float
    spent_usd: float = 0.0
    prompts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """Move lambda until prompts cost ``target_usd`` each on average.

    After each cost: ``ema = (1 - a) ema + a cost``; ``lambda = clip(lambda + eta (ema / target - 1), 0,
    max)``, with ``a = smoothing`` and ``eta = step / target``, so that the same settings serve budgets of any
    size. Pure: state in, new state out; the target may be changed between batches (``left_per_prompt``).
    Source: ParetoBandit's primal-dual pacer (arXiv 2604.00136).

    Raises ``InvalidInputError`` for a target that is not above 0, or settings out of range.
    """

    target_usd: float
    smoothing: float = 0.02
    step: float = 0.02
    #: In units of 1 / target: the greatest lambda is ``max_pressure / target_usd``.
    max_pressure: float = 1000.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target_usd) and self.target_usd > 0):
            raise InvalidInputError("target_usd", f"must be finite and above 0, not {self.target_usd!r}")
        if not 0 < self.smoothing <= 1:
            raise InvalidInputError("smoothing", f"must be above 0 and at most 1, not {self.smoothing!r}")
        if not (self.step > 0 and self.max_pressure > 0):
            raise InvalidInputError("step", "and max_pressure must be above 0")

    def start(self, error_per_usd: float = 0.0) -> PacingState:
        """Give the first state: its mean cost is on target, so that nothing moves before a cost is seen."""
        return PacingState(error_per_usd=error_per_usd, mean_cost_usd=self.target_usd)

    def advance(self, state: PacingState, costs_usd: Iterable[float]) -> PacingState:
        """Give the state after prompts that cost this much, in their order."""
        error_per_usd, mean, spent, prompts = (
            state.error_per_usd,
            state.mean_cost_usd,
            state.spent_usd,
            state.prompts,
        )
        eta, most = self.step / self.target_usd, self.max_pressure / self.target_usd
        for cost in costs_usd:
            mean += self.smoothing * (cost - mean)
            error_per_usd = min(max(error_per_usd + eta * (mean / self.target_usd - 1), 0.0), most)
            spent += cost
            prompts += 1
        return PacingState(error_per_usd=error_per_usd, mean_cost_usd=mean, spent_usd=spent, prompts=prompts)

    def retarget(self, target_usd: float) -> "Pacing":
        """Give the same pacing with another target."""
        return replace(self, target_usd=target_usd)


def left_per_prompt(budget_usd: float, spent_usd: float, prompts_left: float) -> float:
    """Give what each prompt still to come may cost for the budget to come out even; 0 if nothing is left."""
    return max(budget_usd - spent_usd, 0.0) / max(prompts_left, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Follow ``policy`` as long as its choices fit into ``remaining_usd``, prompt by prompt in their order.

    A choice fits while ``spent_usd``, what the prompts before the batch took, the chosen costs so far and its
    own sum to no more. From the first prompt whose choice would not fit, each prompt is offered only what
    does; a prompt for which nothing fits gets -1, and cheaper ones after it may still be served. So the
    choice depends on the prompts before it: a replay of one prompt passes, as ``spent_usd``, the sum of what
    was spent before it, and gets the same bits.
    """

    policy: Policy
    remaining_usd: float
    spent_usd: float = 0.0

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Give the choices and their propensities under the ceiling."""
        choices = self.policy.choose(candidates, rng=rng)
        spent = self.sum_spent(candidates, choices)
        fits = spent[1:] <= self.remaining_usd
        if fits.all():
            return choices
        first = int(np.argmin(fits))
        return self._squeeze(candidates, choices, first, float(spent[first]))

    def sum_spent(
        self, candidates: Candidates, choices: Choices
    ) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Give the USD spent before each prompt and after the last, shape (n + 1,), summed in their order."""
        rows = np.flatnonzero(choices.llms >= 0)
        costs = np.zeros(len(choices.llms) + 1)
        costs[0] = self.spent_usd
        costs[rows + 1] = candidates.costs[rows, choices.llms[rows]]
        return np.cumsum(costs)

    def _squeeze(self, candidates: Candidates, choices: Choices, first: int, spent: float) -> Choices:
        """Choose again, one by one, from the first prompt that does not fit; draws are kept."""
        llms, propensities = choices.llms.copy(), choices.propensities.copy()
        for row in range(first, len(llms)):
            one = candidates.rows(slice(row, row + 1))
            fitting = replace(one, allowed=one.allowed & (spent + one.costs <= self.remaining_usd))
            again = self.policy.choose(fitting, rng=_Same(float(choices.draws[row])))
            llms[row], propensities[row] = again.llms[0], again.propensities[0]
            if llms[row] >= 0:
                spent += float(one.costs[0, llms[row]])
        return Choices(llms, propensities, choices.draws)


@dataclass(frozen=True, slots=True)
class _Same:
    """One draw, given out again."""

    value: float

    def random(self, size: int, /) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return np.full(size, self.value)
