"""RouteLLM's measures of a router between one strong and one weak LLM (arXiv 2406.18665)."""

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import InvalidInputError
from routing.evaluation.curves import Vector


def performance_gap_recovered(quality: float, *, weak: float, strong: float) -> float:
    """PGR: (r - r_weak) / (r_strong - r_weak); 0 at the weak LLM, 1 at the strong, above 1 if it beats both.

    ``InvalidInputError`` where the two LLMs are equally good: there is no gap to recover.
    """
    return (quality - weak) / _gap(weak, strong)


def gap_curve(
    strong_wins: ArrayLike, weak_scores: ArrayLike, strong_scores: ArrayLike
) -> tuple[Vector, Vector]:
    """Return the shares of strong calls and PGR at each, both (m + 1,), m distinct values of ``strong_wins``.

    Parameters, all (n,): predicted probability that the strong LLM wins, and both recorded scores. Prompts go
    to the strong LLM in descending order of it; prompts that tie go together.
    """
    order = -np.asarray(strong_wins, dtype=np.float64)
    weak, strong = np.asarray(weak_scores, dtype=np.float64), np.asarray(strong_scores, dtype=np.float64)
    if not (order.shape == weak.shape == strong.shape) or order.ndim != 1 or not order.size:
        raise InvalidInputError("strong_wins", "needs one probability and two scores per prompt")
    ranked = np.argsort(order, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(order[ranked]) > 0) + 1, order.size)
    gains = np.cumsum((strong - weak)[ranked])[ends - 1] / order.size
    recovered: Vector = np.append(0.0, gains) / _gap(float(weak.mean()), float(strong.mean()))
    return np.append(0.0, ends / order.size), recovered


def average_gap_recovered(shares: Vector, recovered: Vector) -> float:
    """APGR: the mean of PGR over the share of strong calls from 0 to 1, straight between known shares.

    A random router has .5.
    """
    return float(np.trapezoid(recovered, shares))


def call_performance_threshold(shares: Vector, recovered: Vector, *, gap: float) -> float:
    """CPT(p): the least share of strong calls at which PGR reaches ``gap``, straight between known shares.

    RouteLLM states it in per cent of calls; here 0..1. Infinite if PGR never gets there.
    """
    reached = np.flatnonzero(recovered >= gap)
    if not reached.size:
        return float(np.inf)
    first = int(reached[0])
    if first == 0:
        return 0.0
    below, above = recovered[first - 1], recovered[first]
    step = (gap - below) / (above - below)
    return float(shares[first - 1] + step * (shares[first] - shares[first - 1]))


def _gap(weak: float, strong: float) -> float:
    if strong == weak:
        raise InvalidInputError("strong", "the strong and the weak LLM are equally good: there is no gap")
    return strong - weak
