"""Noticing that an LLM is no longer what it was."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import InvalidInputError
from routing.quality.counts import Matrix, Vector, as_errors
from routing.quality.forgetting import DEFAULT_RETENTION

#: What is kept of an LLM's counts when it is noticed to have changed. A power of two: no sum loses a bit.
KEEP_AFTER_CHANGE = 2.0**-4
#: Predictions are held this far from 0 and 1, where one surprise would say everything.
_EDGE = 0.02
#: An LLM's level keeps this share of its way to 0 or 1 in the alternatives.
_LEAST_LEFT = 0.1
#: Mean excess of a walk over its threshold, in standard deviations of a step: -zeta(1/2) / sqrt(2 pi).
_OVERSHOOT = 0.583

Change = Literal["worse", "better"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """Which change is looked for, how soon it should be seen, and how seldom there may be a false alarm."""

    #: Change of an LLM's overall error that should be noticed.
    jump: float = 0.2
    #: Feedbacks of the LLM within which it should be: as many of the last are held against predictions.
    within: int = 150
    #: Feedbacks of an LLM, on average, between two false alarms of each kind.
    feedbacks_per_false_worse: float = 10_000.0
    feedbacks_per_false_better: float = 100_000.0
    #: The same of an LLM that is known to have got worse: to look at it again in vain costs little.
    feedbacks_per_false_return: float = 1_000.0
    #: Feedbacks after which an LLM that got better is steady again: twice as many as are remembered of it, so
    #: that an eighth is left of what was known at its return. Probed for less, it may be left with a rate in
    #: which what it gave while it was worse still tells.
    settling: int = round(2 / (1 - DEFAULT_RETENTION))

    def __post_init__(self) -> None:
        if not 0 < self.jump < 1:
            raise InvalidInputError("jump", f"must be in (0, 1), not {self.jump!r}")
        if not self.within >= 1:
            raise InvalidInputError("within", f"must be at least 1, not {self.within!r}")
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


class Seen(NamedTuple):
    """One feedback, and what was predicted of it."""

    error: float
    predicted: float
    #: Its variance in sums, in units of its own: above 1 where the prediction itself is uncertain.
    spread: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """The last feedback of one LLM, and how far it lies from what was predicted.

    An LLM starts, and starts again after an alarm, with ``DriftState()``.
    """

    #: At most ``within`` of them, the newest last.
    recent: tuple[Seen, ...] = ()
    #: Standard deviations towards worse, and towards better.
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
    known_worse: bool = False,
) -> tuple[DriftState, Alarm | None]:
    """Take in feedback of one LLM, in its order; give the new state, and the first alarm if there is one.

    Parameters: ``errors`` (n,) observed and ``predicted`` (n,) before each was seen, in [0, 1]; ``level`` the
    LLM's overall predicted error; ``evidence`` the labels that the predictions rest on. *Worse* means that a
    share of what the LLM gets right fails, so that its level rises by ``jump``; *better* that a share of what
    it gets wrong succeeds. After an alarm the rest of the rows is not read: start anew with ``DriftState()``.

    A moving sum over the last W = ``within`` feedbacks: of windows that a change may fill, no test sees more
    of the changes at as few false alarms. With l_i the log likelihood ratio of *changed* to *predicted*, and
    c_i what an error adds to it, z = sum c_i (e_i - q_i) / sqrt(sum c_i^2 q_i (1 - q_i)) is an alarm when it
    is at least h, which chance is asked to pass once in ``feedbacks_per_false_*``, and when it lies nearer to
    what W changed feedbacks would give than to 0. Feedback that is still to come counts as predicted. An LLM
    that is ``known_worse`` got better when h alone is passed, once in ``feedbacks_per_false_return``.

    Predict from all earlier feedback since the last alarm, nothing forgotten. From N labels and a flat prior
    the sum of W errors varies 1 + (W - 1) / (N + 3) times as much as were the rate known (beta-binomial).
    Sources: Lai 1974 (moving sums); Guepie, Fillatre & Nikiforov 2012 (changes to be seen within a time).
    """
    q = np.clip(np.asarray(predicted, dtype=np.float64), _EDGE, 1 - _EDGE)
    e = as_errors("errors", errors, shape=q.shape)
    if q.ndim != 1 or not 0 <= level <= 1 or not evidence >= 0:
        raise InvalidInputError("predicted", "one prediction per error is needed, and a level in [0, 1]")
    if not len(q):
        return state, None
    spread = 1.0 + (rule.within - 1) / (evidence + 3)
    fresh = np.column_stack([e, q, np.full(len(q), spread)])
    held = state.recent[-rule.within :]
    rows = np.vstack([np.reshape(np.array(held), (len(held), 3)), fresh])
    worse, far_worse = _move(rows, _worsen(rows[:, 1], level, rule.jump), rule.within)
    better, far_better = _move(rows, _improve(rows[:, 1], level, rule.jump), rule.within)
    too_bad = worse >= np.maximum(_threshold(rule.feedbacks_per_false_worse, rule.within), far_worse / 2)
    if known_worse:
        too_good = better >= _threshold(rule.feedbacks_per_false_return, rule.within)
    else:
        seldom = _threshold(rule.feedbacks_per_false_better, rule.within)
        too_good = better >= np.maximum(seldom, far_better / 2)
    alarms = np.flatnonzero((too_bad | too_good)[len(held) :])
    last = int(alarms[0]) if alarms.size else len(q) - 1
    end = len(held) + last
    state = DriftState(
        recent=tuple(_read(rows[max(0, end + 1 - rule.within) : end + 1])),
        worse=float(worse[end]),
        better=float(better[end]),
        feedbacks=state.feedbacks + last + 1,
    )
    if not alarms.size:
        return state, None
    return state, Alarm(row=last, change="worse" if too_bad[end] else "better")


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

    After an alarm the caller keeps ``KEEP_AFTER_CHANGE`` of the LLM's counts, which describe what it was.
    What little is then known of an LLM that got worse is taken for certain: it would be looked at again too
    late.
    """
    known_worse = watch.standing == "worse"
    state, alarm = watch_errors(
        rule,
        watch.state,
        errors,
        predicted,
        level=level,
        evidence=np.inf if known_worse else evidence,
        known_worse=known_worse,
    )
    if alarm is not None:
        settling = rule.settling if alarm.change == "better" else 0
        standing: Standing = "returning" if alarm.change == "better" else "worse"
        return Watch(standing=standing, remaining=settling), alarm
    if watch.standing != "returning":
        return replace(watch, state=state), None
    remaining = max(0, watch.remaining - np.size(predicted))
    return Watch(state=state, standing="returning" if remaining else "steady", remaining=remaining), None


def _worsen(q: Vector, level: float, jump: float) -> Vector:
    """Give the errors (n,) of an LLM of which a share of the right answers fails."""
    worse: Vector = 1 - (1 - q) * max(1 - jump / max(1 - level, _EDGE), _LEAST_LEFT)
    return worse


def _improve(q: Vector, level: float, jump: float) -> Vector:
    """Give the errors (n,) of an LLM of which a share of the wrong answers succeeds."""
    better: Vector = q * max(1 - jump / max(level, _EDGE), _LEAST_LEFT)
    return better


def _move(rows: Matrix, other: Vector, width: int) -> tuple[Vector, Vector]:
    """Give z at each row (n,), and what it would be on average after ``width`` feedbacks of ``other``."""
    e, q, spread = rows.T
    per_error = np.log(other / (1 - other)) - np.log(q / (1 - q))
    seen = np.minimum(np.arange(1, len(q) + 1), width)
    found, expected, variance = (
        _sum_last(one, width)
        for one in (per_error * (e - q), per_error * (other - q), per_error**2 * q * (1 - q) * spread)
    )
    deviation = np.sqrt(variance * width / seen)
    return found / deviation, expected * (width / seen) / deviation


def _sum_last(values: Vector, width: int) -> Vector:
    """Sum the last ``width`` values at each row."""
    sums = np.cumsum(values)
    sums[width:] -= sums[:-width].copy()
    return sums


def _threshold(feedbacks: float, width: int) -> float:
    """Give h that a moving sum of ``width`` standard normals passes once in so many feedbacks, on average.

    That is h phi(h) / width a feedback for a sum that moves without steps, and for one in steps as if h were
    .583 of a step's standard deviation, sqrt(2 / width), higher. At least 1 less that: below it the sum is on
    its way back. Sources: Pickands 1969; Siegmund 1985, chapter 10.
    """
    height = 1.0
    for _ in range(50):  # a contraction above 1; 50 rounds leave less than 1e-9
        odds = np.log(feedbacks * height / (width * np.sqrt(2 * np.pi)))
        height = float(np.sqrt(max(2 * odds, 1.0)))
    return height - _OVERSHOOT * float(np.sqrt(2 / width))


def _read(rows: Matrix) -> Sequence[Seen]:
    return [Seen(*row) for row in rows.tolist()]
