"""Cascades: take a cheap LLM's answer where it is likely right, ask the next where not, or abstain."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, Choices, UniformSource, choose_surely
from routing.policies.lagrangian import Lagrangian

FloatVector = NDArray[np.float64]
Action = Literal["accept", "escalate", "abstain"]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """From a confidence, on whatever scale, to the probability that the answer is right.

    ``confidences`` of shape (n_knots,) ascend; ``chances`` of the same shape do not descend and lie in 0..1.
    Between knots the chance is interpolated, beyond them it stays.
    """

    confidences: FloatVector
    chances: FloatVector

    def __post_init__(self) -> None:
        if self.confidences.shape != self.chances.shape or self.confidences.ndim != 1:
            raise InvalidInputError("calibration", "needs as many chances as confidences, in one dimension")
        if not self.confidences.size or not np.all(np.isfinite([*self.confidences, *self.chances])):
            raise InvalidInputError("calibration", "needs at least one knot, and finite numbers")
        if np.any(np.diff(self.confidences) < 0) or np.any(np.diff(self.chances) < 0):
            raise InvalidInputError("calibration", "must ascend")
        if self.chances[0] < 0 or self.chances[-1] > 1:
            raise InvalidInputError("calibration", "has chances outside 0..1")

    def chance(self, confidence: float) -> float:
        """Give the probability that an answer of this confidence is right; NaN counts as none at all."""
        if np.isnan(confidence):
            return float(self.chances[0])
        return float(np.interp(confidence, self.confidences, self.chances))


def fit_calibration(confidences: FloatVector, scores: FloatVector) -> Calibration:
    """Fit the chance of being right by isotonic regression.

    ``confidences`` and ``scores`` (0 wrong to 1 right) have shape (n_answers,). With one answer the chance is
    its score everywhere. Source: Zadrozny & Elkan 2002; the pool-adjacent-violators algorithm.
    """
    if confidences.shape != scores.shape or confidences.ndim != 1 or not confidences.size:
        raise InvalidInputError("confidences", "and scores must be vectors of one length, not empty")
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(confidences, scores)
    return Calibration(
        np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(fitted.y_thresholds_, dtype=np.float64)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeRule:
    """What becomes of an answer, by the chance that it is right."""

    #: Taken from this chance on.
    accept_at: float
    #: Not worth asking anybody else below this chance: the prompt is beyond all of them.
    abstain_below: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.abstain_below <= self.accept_at <= 1:
            raise InvalidInputError("cascade", "needs 0 <= abstain_below <= accept_at <= 1")

    def judge(self, chance: float, *, is_last: bool) -> Action:
        """Say what becomes of an answer; that of the last LLM is taken, unless one abstains."""
        if chance < self.abstain_below:
            return "abstain"
        return "accept" if is_last or chance >= self.accept_at else "escalate"


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeStart:
    """Choose the LLM that a cascade of ``llms`` asks first.

    Without ``error_per_usd`` that is the first of them that the limits allow. With it, it is the one that
    ``choose_next`` gives while there is no answer: the greatest 1 - e - lambda * cost, which is the least of
    e + lambda * cost (``Lagrangian``), even where that is worth nothing, because an answer is wanted. Where
    the limits removed all of them, nothing is chosen (-1). Raises ``InvalidInputError`` for no LLMs or a
    lambda that cannot be, and ``UnknownLLMError`` when it chooses among candidates that lack one.
    """

    llms: tuple[str, ...]
    error_per_usd: float | None = None

    def __post_init__(self) -> None:
        if not self.llms:
            raise InvalidInputError("llms", "must name at least one LLM")
        if self.error_per_usd is not None:
            Lagrangian(self.error_per_usd)

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Give the choices, each with propensity 1."""
        columns = np.array([candidates.column(name) for name in self.llms])
        members = np.zeros_like(candidates.allowed)
        members[:, columns] = candidates.allowed[:, columns]
        if self.error_per_usd is not None:
            return Lagrangian(self.error_per_usd).choose(replace(candidates, allowed=members), rng=rng)
        there = members[:, columns]
        return choose_surely(np.where(there.any(axis=1), columns[there.argmax(axis=1)], -1).astype(np.int64))


def bound_escalation(error: float, *, accept_at: float) -> tuple[float, float]:
    """Give the least and the greatest probability that an answer is not taken, before it is there.

    ``error`` (0..1) is what was predicted of it. If its chance of being right is calibrated, the mean of that
    chance is 1 - e. By Markov's inequality it reaches ``accept_at`` = t with probability (1 - e) / t at most;
    and since 1 less that chance has mean e, it stays below t with probability e / (1 - t) at most. At t = 0
    every answer is taken.
    """
    if accept_at <= 0:
        return 0.0, 0.0
    least = max(0.0, 1.0 - (1.0 - error) / accept_at)
    return least, 1.0 if accept_at >= 1 else min(1.0, error / (1.0 - accept_at))


def choose_next(
    chance: float, errors: FloatVector, costs_usd: FloatVector, *, error_per_usd: float
) -> int | None:
    """Give the LLM to ask next: the one that adds most to the expected best answer for its cost.

    ``errors`` and ``costs_usd`` of shape (n_llms,) are those of LLMs not asked yet, predicted for the prompt.
    An answer that is right with probability p and one that errs with probability e leave an error of
    (1 - p) * e if they err independently, so asking gains (1 - p) * (1 - e) - lambda * cost. ``None`` where
    nobody gains anything. Source: cascade routing (Dekoninck et al. 2024), with max quality of 0 or 1.
    """
    if not errors.size:
        return None
    gains = (1.0 - chance) * (1.0 - errors) - error_per_usd * costs_usd
    best = int(np.argmax(gains))
    return best if gains[best] > 0 else None
