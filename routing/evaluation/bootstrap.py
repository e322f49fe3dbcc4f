"""Intervals: test prompts drawn again and again, the same for all methods; Student's t where trials vary."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from routing.errors import InvalidInputError
from routing.evaluation.curves import Choices, Matrix, Vector
from routing.evaluation.metrics import areas

Interval = tuple[float, float]


def resample_prompts(n: int, *, replicates: int, rng: np.random.Generator) -> Matrix:
    """Return (n, B) weights, each column the shares of one draw of n prompts out of n with replacement.

    The same weights are used for every router and trial, so that differences between routers are paired.
    """
    return rng.multinomial(n, np.full(n, 1.0 / n), size=replicates).T / n


def resampled_areas(choices: Choices, scores: Matrix, costs: Matrix, weights: Matrix) -> tuple[float, Vector]:
    """Return the Area of a sampled path, on all prompts and on each of the B resamples.

    Parameters: ``choices`` (P, n), LLMs at P operating points; ``scores`` and ``costs`` (n, H); ``weights``
    (n, B). Each resample has its own cheapest and dearest LLM. Memory O(P (n + B)).
    """
    rows = np.arange(len(scores))
    return area_of_points(scores[rows, choices], costs[rows, choices], costs, weights)


def area_of_points(
    point_scores: Matrix, point_costs: Matrix, costs: Matrix, weights: Matrix
) -> tuple[float, Vector]:
    """``resampled_areas`` for points given by each prompt's score and cost, both (P, n)."""
    everything = np.column_stack([np.full(len(costs), 1.0 / len(costs)), weights])
    pool = costs.T @ everything
    values = areas(
        point_costs @ everything,
        point_scores @ everything,
        low=pool.min(axis=0),
        high=pool.max(axis=0),
    )
    return float(values[0]), values[1:]


def bootstrap_interval(
    value: float, full: float, replicates: ArrayLike, *, confidence: float = 0.95
) -> Interval:
    """Return ``value`` plus the percentiles of replicate minus ``full``.

    ``full`` is the statistic on all prompts as the replicates see it (on a sampled path it falls a little
    short of ``value``, the exact one).
    """
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(np.asarray(replicates, dtype=np.float64) - full, [tail, 100.0 - tail])
    return value + float(low), value + float(high)


def paired_interval(differences: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return Student's t interval of the mean of paired differences, one per trial; at least 2 trials.

    It covers what differs between trials, the pool of LLMs and the labelled prompts; the test prompts are
    the same in all of them.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or values.size < 2:  # noqa: PLR2004
        raise InvalidInputError("differences", "an interval over trials needs at least 2 of them")
    error = values.std(ddof=1) / np.sqrt(values.size)
    half = float(stdtrit(values.size - 1, 0.5 + 0.5 * confidence) * error)
    mean = float(values.mean())
    return mean - half, mean + half
