"""What another policy would have been worth, from decisions that were logged with their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from routing.errors import InvalidInputError, MissingSupportError
from routing.evaluation.bootstrap import Interval
from routing.evaluation.curves import Choices, Matrix, Vector

#: Probabilities of one decision sum to 1 within this.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoggedDecisions:
    """n decisions whose outcome is known, with the odds of everything that could have been chosen.

    A log keeps the probability of the LLM that was chosen; those of the others follow from the logged
    candidates and policy (``routing.policies.probabilities_of``). Decisions without a candidate do not belong
    here.
    """

    #: Names of the decisions, for messages.
    ids: Sequence[str]
    #: (n,): columns.
    chosen: Choices
    #: (n, H): rows sum to 1; above 0 where an LLM was chosen.
    probabilities: Matrix
    #: (n,): what the chosen LLM was worth, in 0..1: its score.
    rewards: Vector

    def __post_init__(self) -> None:
        n = len(self.chosen)
        if len(self.ids) != n or self.rewards.shape != (n,) or self.probabilities.shape[:1] != (n,) or n < 2:  # noqa: PLR2004
            raise InvalidInputError(
                "chosen", "at least 2 decisions, each with an id, odds and a reward, are needed"
            )
        _check_odds("probabilities", self.probabilities)
        if not np.all((self.rewards >= 0) & (self.rewards <= 1)):
            raise InvalidInputError("rewards", "must be known and in 0..1")
        if not np.all(self.propensities > 0):
            raise InvalidInputError("probabilities", "what was chosen had a probability above 0")

    @property
    def propensities(self) -> Vector:
        """(n,): the probability with which each choice was made."""
        odds: Vector = self.probabilities[np.arange(len(self.chosen)), self.chosen]
        return odds


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The mean reward of a policy, as one estimator sees it."""

    value: float
    #: 95 %, or as asked.
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicyValue:
    """What a policy would have been worth on the logged prompts, in three estimates."""

    #: Unbiased, and the widest.
    ips: Estimate
    #: Its weights sum to 1: a little bias for less spread.
    snips: Estimate
    #: The predictions' value, corrected by the logged rewards; the narrowest where predictions are good.
    dr: Estimate
    #: (sum w)^2 / sum w^2: as many decisions of the policy's own would say about as much.
    effective_size: float
    decisions: int


def estimate_value(
    log: LoggedDecisions, policy: Matrix, predicted: Matrix, *, clip: float = np.inf, confidence: float = 0.95
) -> OffPolicyValue:
    """Estimate what a policy would have been worth: IPS, SNIPS and the doubly robust estimate.

    Parameters: ``policy`` (n, H), the probabilities with which it would choose; ``predicted`` (n, H), rewards
    expected of each LLM in 0..1, not learned from these very rewards. With w = policy / logged probability of
    what was chosen, at most ``clip`` (a finite clip biases towards the predictions)::

        IPS    mean(w r)
        SNIPS  sum(w r) / sum(w)
        DR     mean(sum_a policy_a predicted_a + w (r - predicted))

    Intervals are Student's t around the mean of the n terms (SNIPS: of its linearisation), with the effective
    sample size less 1 as degrees of freedom, since so many decisions carry the weight. Raises
    ``MissingSupportError`` where the policy may choose what a logged decision never could: with a
    deterministic log, wherever the two differ.

    Sources: Horvitz & Thompson 1952; Swaminathan & Joachims 2015; Dudik, Langford & Li 2011.
    """
    shape = log.probabilities.shape
    if policy.shape != shape or predicted.shape != shape:
        raise InvalidInputError(
            "policy", f"and predicted must be {shape}, not {policy.shape}, {predicted.shape}"
        )
    _check_odds("policy", policy)
    if not np.all((predicted >= 0) & (predicted <= 1)):
        raise InvalidInputError("predicted", "must be known and in 0..1")
    if not 0 < confidence < 1 or not clip > 0:
        raise InvalidInputError("confidence", "must be in (0, 1), and clip above 0")
    require_support(log, policy)
    rows = np.arange(shape[0])
    weights = np.minimum(policy[rows, log.chosen] / log.propensities, clip)
    total = float(weights.sum())
    if total <= 0:
        raise MissingSupportError(
            list(log.ids), of=len(rows), example="no logged choice is one of the policy's"
        )
    effective = total**2 / float((weights**2).sum())
    corrections = weights * (log.rewards - predicted[rows, log.chosen])
    ratio = float((weights * log.rewards).sum()) / total
    return OffPolicyValue(
        ips=_around(weights * log.rewards, effective, confidence),
        snips=_around(ratio + weights * (log.rewards - ratio) * len(rows) / total, effective, confidence),
        dr=_around((policy * predicted).sum(axis=1) + corrections, effective, confidence),
        effective_size=effective,
        decisions=len(rows),
    )


def require_support(log: LoggedDecisions, policy: Matrix) -> None:
    """Raise ``MissingSupportError`` unless every choice the policy may make could have been logged."""
    lacking = (policy > 0) & (log.probabilities <= 0)
    rows = np.flatnonzero(lacking.any(axis=1))
    if rows.size:
        sure = int(np.count_nonzero(log.propensities[rows] >= 1 - _ROUNDING))
        raise MissingSupportError(
            [log.ids[int(row)] for row in rows],
            of=len(log.ids),
            example=f"{sure} of them were made without chance; log with an exploration share" if sure else "",
        )


def _around(terms: Vector, effective: float, confidence: float) -> Estimate:
    """Give the mean of the terms with Student's t interval; unbounded if one has all the weight."""
    value = float(terms.mean())
    freedom = effective - 1
    if freedom <= 0:
        return Estimate(value=value, interval=(-np.inf, np.inf))
    error = float(terms.std(ddof=1)) / np.sqrt(len(terms))
    half = float(stdtrit(freedom, 0.5 + 0.5 * confidence)) * float(error)
    return Estimate(value=value, interval=(value - half, value + half))


def _check_odds(field: str, odds: Matrix) -> None:
    if odds.ndim != 2 or not np.all(odds >= 0) or not np.all(np.abs(odds.sum(axis=1) - 1) <= _ROUNDING):  # noqa: PLR2004
        raise InvalidInputError(field, "must be probabilities whose rows sum to 1")
