"""A ceiling that stands beside a policy: whatever it wants, what it chooses fits into what is left."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routing.policies.candidates import Candidates, Choices, Policy, UniformSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Follow ``policy`` as long as its choices fit into ``remaining_usd``, prompt by prompt in their order.

    A choice fits while ``spent_usd``, what the prompts before the batch took, the chosen amounts so far and
    its own sum to no more. Each prompt is offered only what fits, before anything is drawn, so that its
    propensity is that of its choice under the ceiling; a prompt for which nothing fits gets -1, and cheaper
    ones after it may still be served. So the choice depends on the prompts before it: a replay of one prompt
    passes, as ``spent_usd``, the sum of what was spent before it, and gets the same bits.

    An amount is the expected cost or, ``by_ceiling``, what the call hardly exceeds, of the LLM itself or of
    whichever of the ``fallbacks`` may stand in for it: ``reservable``.
    """

    policy: Policy
    remaining_usd: float
    spent_usd: float = 0.0
    by_ceiling: bool = False
    fallbacks: tuple[str, ...] = ()

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Give the choices and their propensities under the ceiling."""
        choices = self.policy.choose(candidates, rng=rng)
        amounts = reservable(candidates, self.fallbacks) if self.by_ceiling else candidates.costs
        spent = self._sum_spent(amounts, choices)
        dearest = np.where(candidates.allowed, amounts, 0.0).max(axis=1, initial=0.0)
        fits = spent[:-1] + dearest <= self.remaining_usd
        if fits.all():
            return choices
        first = int(np.argmin(fits))
        return self._squeeze(candidates, amounts, choices, first, float(spent[first]))

    def _sum_spent(self, amounts: NDArray[np.float64], choices: Choices) -> NDArray[np.float64]:
        """Give the USD spent before each prompt and after the last, shape (n + 1,), summed in their order."""
        rows = np.flatnonzero(choices.llms >= 0)
        chosen = np.zeros(len(choices.llms) + 1)
        chosen[0] = self.spent_usd
        chosen[rows + 1] = amounts[rows, choices.llms[rows]]
        return np.cumsum(chosen)

    def _squeeze(
        self, candidates: Candidates, amounts: NDArray[np.float64], choices: Choices, first: int, spent: float
    ) -> Choices:
        """Choose again, one by one, from the first prompt that not all fits for; draws are kept."""
        llms, propensities = choices.llms.copy(), choices.propensities.copy()
        for row in range(first, len(llms)):
            one = candidates.rows(slice(row, row + 1))
            fitting = replace(one, allowed=one.allowed & (spent + amounts[row] <= self.remaining_usd))
            again = self.policy.choose(fitting, rng=_Same(float(choices.draws[row])))
            llms[row], propensities[row] = again.llms[0], again.propensities[0]
            if llms[row] >= 0:
                spent += float(amounts[row, llms[row]])
        return Choices(llms, propensities, choices.draws)


def reservable(candidates: Candidates, fallbacks: tuple[str, ...] = ()) -> NDArray[np.float64]:
    """Give the USD, shape (n, H), that a call hardly exceeds, made to the LLM or to a fallback it may have.

    Fallbacks that the limits of a prompt removed, or that are not known, stand in for nobody.
    """
    amounts = candidates.costs if candidates.ceilings is None else candidates.ceilings
    columns = [candidates.names.index(name) for name in fallbacks if name in candidates.names]
    if not columns:
        return amounts
    standing_in = np.where(candidates.allowed[:, columns], amounts[:, columns], 0.0)
    reserved: NDArray[np.float64] = np.maximum(amounts, standing_in.max(axis=1, keepdims=True))
    return reserved


@dataclass(frozen=True, slots=True)
class _Same:
    """One draw, given out again."""

    value: float

    def random(self, size: int, /) -> NDArray[np.float64]:
        return np.full(size, self.value)
