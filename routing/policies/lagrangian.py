"""The default policy: the least predicted error + lambda * cost."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, Choices, UniformSource, choose_surely, least


@dataclass(frozen=True, slots=True)
class Lagrangian:
    """Choose argmin of ``error + error_per_usd * cost``; ties to the cheaper, the less wrong, then the name.

    ``error_per_usd`` is lambda: how much probability of error one USD is worth. 0 picks the least error,
    ``inf`` the least cost. It is a fixed number, not a share of the pool's prices, so that its meaning
    survives a new LLM. Source: UniRoute (arXiv 2502.08773), plug-in of the optimal rule.

    ``surcharges`` of LLMs, by name, are errors added to their scores: what a place at an LLM that has few
    of them is worth, the dual price of its capacity.

    Raises ``InvalidInputError`` for a negative lambda or NaN.
    """

    error_per_usd: float
    surcharges: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if math.isnan(self.error_per_usd) or self.error_per_usd < 0:
            raise InvalidInputError("error_per_usd", f"must be at least 0, not {self.error_per_usd!r}")

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:  # noqa: ARG002  # no draw
        """Give the choices, each with propensity 1."""
        keys = (self.scores(candidates), candidates.costs, candidates.errors)
        return choose_surely(least(keys, candidates.allowed))

    def scores(self, candidates: Candidates) -> NDArray[np.float64]:
        """Give ``error + lambda * cost``, shape (n, H), of which the least wins; the cost at lambda = inf.

        A score too great for a float is ``inf``; such candidates tie, and the cheaper one wins as it should.
        """
        if math.isinf(self.error_per_usd):
            return candidates.costs
        with np.errstate(over="ignore"):
            scores = self.error_per_usd * candidates.costs
        scores += candidates.errors
        for name, error in self.surcharges:
            if name in candidates.names:
                scores[:, candidates.names.index(name)] += error
        return scores
