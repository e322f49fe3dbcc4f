"""Noticing that an LLM is no longer what it was."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import InvalidInputError
from routing.quality.counts import Vector, as_errors

#: Predictions are held this far from 0 and 1, where one surprise would say everything.
_EDGE = 0.02
#: An LLM's level keeps this share of its way to 0 or 1 in the alternatives.
_LEAST_LEFT = 0.1
#: Mean excess of a walk over its threshold, in standard deviations of a step: -zeta(1/2) / sqrt(2 pi).
_OVERSHOOT = 0.583
#: Feedbacks of a change that are held against the evidence of before, in the discount of the latter.
_WINDOW = 120.0

Change = Literal["worse", "better"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """Which change is looked for, and how seldom there may be a false alarm.

    The feedbacks between false alarms are what the theory promises at least. On recorded outcomes they were
    twice as many (``uniroute learn simulate --scenario drift``).
    """

    #: Change of an LLM's overall error that should be noticed soon.
    jump: float = 0.2
    #: Feedbacks of an LLM, on average, between two false alarms of each kind, at least.
    feedbacks_per_false_worse: float = 6_000.0
    feedbacks_per_false_better: float = 100_000.0
    #: The same of an LLM that is known to have got worse: to look at it again in vain costs little.
    feedbacks_per_false_return: float = 1_000.0
    #: Feedbacks after which an LLM that got better is steady again.
    settling: int = 150

    def __post_init__(self) -> None:
        if not 0 < self.jump < 1:
            raise InvalidInputError("jump", f"must be in (0, 1), not {self.jump!r}")
        if (
            not min(
                self.feedbacks_per_false_worse,
                self.feedbacks_per_false_better,
                self.feedbacks_per_false_return,
            )
            >= 1
        ):
            raise InvalidInputError(
                "feedbacks_per_false_worse", "and those of other alarms must be at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """Two Shiryaev-Roberts statistics of one LLM: R = (1 + R) * likelihood ratio of *changed* to *predicted*.

    An LLM starts, and starts again after an alarm, with ``DriftState()``.
    """

    worse: float = 0.0
    better: float = 0.0
    #: Feedbacks seen.
    feedbacks: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A change that was noticed at row ``row`` of the feedback given."""

    row: int
    change: Change


def watch_errors(
    rule: DriftRule,
    state: DriftState,
    errors: ArrayLike,
    predicted: ArrayLike,
    *,
    level: float,
    evidence: float = np.inf,
) -> tuple[DriftState, Alarm | None]:
    """Take in feedback of one LLM, in its order; give the new state, and the first alarm if there is one.

    Parameters: ``errors`` (n,) observed and ``predicted`` (n,) before each was seen, in [0, 1]; ``level`` the
    LLM's overall predicted error; ``evidence`` the labels that the predictions rest on. *Worse* means that a
    share of what the LLM gets right fails, so that its level rises by ``jump``; *better* that a share of what
    it gets wrong succeeds. Predict from all earlier feedback since the last alarm, nothing forgotten: then
    these are likelihood ratios of what is seen, learning included. After an alarm the rest of the rows is not
    read: start anew with ``DriftState()``.

    Under no change E[R] = n after n feedbacks, so an alarm at R >= A comes after at least A of them on
    average, and about A exp(.583 s), s the standard deviation of a step. A prediction from N labels says, of
    a change that is 120 feedbacks old, N / (N + 120) of what a certain one would: log ratios are multiplied
    by that, which makes R smaller on average. Sources: Shiryaev 1963; Roberts 1966; Pollak 1987.
    """
    q = np.clip(np.asarray(predicted, dtype=np.float64), _EDGE, 1 - _EDGE)
    e = as_errors("errors", errors, shape=q.shape)
    if q.ndim != 1 or not 0 <= level <= 1 or not evidence >= 0:
        raise InvalidInputError("predicted", "one prediction per error is needed, and a level in [0, 1]")
    if not len(q):
        return state, None
    worse = 1 - (1 - q) * max(1 - rule.jump / max(1 - level, _EDGE), _LEAST_LEFT)
    better = q * max(1 - rule.jump / max(level, _EDGE), _LEAST_LEFT)
    told = 1.0 / (1.0 + _WINDOW / evidence) if evidence > 0 else 0.0
    bad = _walk(state.worse, e, q, worse, told)
    good = _walk(state.better, e, q, better, told)
    too_bad = bad >= _threshold(rule.feedbacks_per_false_worse, level, rule.jump)
    too_good = good >= _threshold(rule.feedbacks_per_false_better, level, rule.jump)
    alarms = np.flatnonzero(too_bad | too_good)
    last = int(alarms[0]) if alarms.size else len(q) - 1
    state = DriftState(
        worse=float(np.exp(bad[last])), better=float(np.exp(good[last])), feedbacks=state.feedbacks + last + 1
    )
    if not alarms.size:
        return state, None
    return state, Alarm(row=last, change="worse" if too_bad[last] else "better")


Standing = Literal["steady", "worse", "returning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How one LLM stands.

    *worse* after an alarm for the worse, *returning* after one for the better, *steady* again once
    ``rule.settling`` feedbacks have come without another. While it is not steady its old counts say little
    and routes may avoid it, so it needs probes to be seen at all.
    """

    state: DriftState = field(default_factory=DriftState)
    standing: Standing = "steady"
    #: Feedbacks still to come while *returning*.
    remaining: int = 0

    @property
    def wants_probes(self) -> bool:
        """Whether the LLM should be asked beside the replies, so that its recovery can be seen."""
        return self.standing != "steady"


def follow_llm(
    rule: DriftRule,
    watch: Watch,
    errors: ArrayLike,
    predicted: ArrayLike,
    *,
    level: float,
    evidence: float = np.inf,
) -> tuple[Watch, Alarm | None]:
    """Take in feedback as ``watch_errors`` does, and say how the LLM stands after it.

    After an alarm the caller shrinks the LLM's counts, which describe what it was. What little is then known
    of an LLM that got worse is not discounted: it would be looked at again too late.
    """
    if watch.standing == "worse":
        rule, evidence = replace(rule, feedbacks_per_false_better=rule.feedbacks_per_false_return), np.inf
    state, alarm = watch_errors(rule, watch.state, errors, predicted, level=level, evidence=evidence)
    if alarm is not None:
        settling = rule.settling if alarm.change == "better" else 0
        standing: Standing = "returning" if alarm.change == "better" else "worse"
        return Watch(standing=standing, remaining=settling), alarm
    if watch.standing != "returning":
        return replace(watch, state=state), None
    remaining = max(0, watch.remaining - np.size(predicted))
    return Watch(state=state, standing="returning" if remaining else "steady", remaining=remaining), None


def _walk(start: float, e: Vector, q: Vector, other: Vector, told: float) -> Vector:
    """Give log R after each row; with S the summed log ratios, R_n = exp(S_n) (R_0 + sum_k<n exp(-S_k))."""
    steps = told * (e * np.log(other / q) + (1 - e) * np.log((1 - other) / (1 - q)))
    sums = np.cumsum(steps)
    before = np.append(0.0, sums[:-1])
    begun = np.log(start) if start > 0 else -np.inf
    walk: Vector = sums + np.logaddexp.accumulate(np.append(begun, -before))[1:]
    return walk


def _threshold(feedbacks: float, level: float, jump: float) -> float:
    """Give log A for a mean of ``feedbacks`` to a false alarm, less what a walk exceeds it by."""
    spread = jump / np.sqrt(max(level * (1 - level), _EDGE * (1 - _EDGE)))
    return float(max(0.0, np.log(feedbacks) - _OVERSHOOT * min(spread, 1.0)))
