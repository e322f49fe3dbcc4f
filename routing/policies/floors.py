"""The cheapest LLM that is good enough: within a margin of the best, or of a reference LLM."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, Choices, UniformSource, choose_surely, least


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFloor:
    """Choose the cheapest LLM whose predicted error is at most ``margin`` above the least one allowed.

    With ``confidence`` above .5 the upper bound of its error is asked instead, the normal quantile of its
    deviation; the LLM with the least predicted error always qualifies. Ties: less wrong, then name.

    Raises ``InvalidInputError`` for a margin outside 0..1, a confidence outside [.5, 1), and, when it
    chooses, for candidates without deviations if the confidence is above .5.
    """

    margin: float
    confidence: float = 0.5

    def __post_init__(self) -> None:
        _check(self.margin, self.confidence)

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:  # noqa: ARG002  # no draw
        """Give the choices, each with propensity 1."""
        errors, costs, allowed = candidates.errors, candidates.costs, candidates.allowed
        best = least((errors, costs), allowed)
        floor = _column(errors, best) + self.margin
        upper = errors + _quantile(self.confidence) * _deviations(candidates, self.confidence)
        good = allowed & (upper <= floor[:, None])
        good[np.arange(len(best)), best] |= best >= 0
        return choose_surely(least((costs, errors), good))


@dataclass(frozen=True, slots=True, kw_only=True)
class EquivalentTo:
    """Choose the cheapest LLM that surely errs less than ``margin`` more often than a reference LLM.

    Surely: with ``confidence``. The difference of two errors is taken as normal, its variance the sum of
    theirs. The reference qualifies by definition, if it is allowed. Where nothing allowed qualifies, the
    least predicted error is chosen: the best that the limits leave. Source: SMART (arXiv 2403.13835), with
    the profile replaced by predicted errors.

    Raises ``InvalidInputError`` as ``QualityFloor`` does, and ``UnknownLLMError`` when it chooses among
    candidates that do not include the reference.
    """

    reference: str
    margin: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _check(self.margin, self.confidence)

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:  # noqa: ARG002  # no draw
        """Give the choices, each with propensity 1."""
        errors, costs, allowed = candidates.errors, candidates.costs, candidates.allowed
        reference = candidates.column(self.reference)
        deviations = _deviations(candidates, self.confidence)
        spread = np.sqrt(deviations**2 + deviations[:, [reference]] ** 2)
        more = errors - errors[:, [reference]] + _quantile(self.confidence) * spread
        good = allowed & (more < self.margin)
        good[:, reference] = allowed[:, reference]
        chosen = least((costs, errors), good)
        return choose_surely(np.where(chosen >= 0, chosen, least((errors, costs), allowed)))


def _check(margin: float, confidence: float) -> None:
    if not 0 <= margin <= 1:
        raise InvalidInputError("margin", f"must be in 0..1, not {margin!r}")
    if not 0.5 <= confidence < 1:  # noqa: PLR2004  # even odds: the mean itself
        raise InvalidInputError("confidence", f"must be at least .5 and below 1, not {confidence!r}")


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(confidence)


def _deviations(candidates: Candidates, confidence: float) -> NDArray[np.float64]:
    if math.isclose(_quantile(confidence), 0.0, abs_tol=1e-12):
        return np.zeros_like(candidates.errors)
    if candidates.deviations is None:
        raise InvalidInputError("confidence", "above .5 needs the deviations of the predicted errors")
    return candidates.deviations


def _column(values: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give each row's value in its column; any value where the column is -1."""
    if values.shape[1] == 0:
        return np.zeros(len(values))
    picked: NDArray[np.float64] = values[np.arange(len(values)), columns]
    return picked
