"""What a deferral curve is worth, in the terms of the papers; every convention is in its docstring."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.evaluation.curves import DeferralCurve, Matrix, Vector

#: Qualities this close are equal: means of the same scores, added up in another order, differ by less.
SAME_QUALITY = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The LLMs a router may choose from, by their realised means over the prompts of the curve."""

    #: (H,): mean cost of sending every prompt to one LLM.
    costs: Vector
    #: (H,): its mean score.
    qualities: Vector

    @classmethod
    def of(cls, scores: Matrix, costs: Matrix) -> "Pool":
        """Take the means of ``scores`` and ``costs``, both (n, H)."""
        if scores.shape != costs.shape or scores.ndim != 2 or 0 in scores.shape:  # noqa: PLR2004
            raise InvalidInputError(
                "scores", f"{scores.shape} and costs {costs.shape} must be (prompts, LLMs)"
            )
        return cls(costs=costs.mean(axis=0), qualities=scores.mean(axis=0))

    @property
    def best(self) -> int:
        """The column of the best single LLM: highest mean score, ties to the cheaper."""
        best = self.qualities >= self.qualities.max() - SAME_QUALITY
        return int(np.where(best, self.costs, np.inf).argmin())

    @property
    def cheapest(self) -> int:
        """The column of the cheapest LLM, ties to the better."""
        return int(np.lexsort((-self.qualities, self.costs))[0])

    @property
    def cost_range(self) -> tuple[float, float]:
        """The cost of the cheapest and of the dearest LLM."""
        return float(self.costs.min()), float(self.costs.max())


def area(curve: DeferralCurve, low: float, high: float) -> float:
    """Area: mean of the non-decreasing envelope over costs from ``low`` to ``high``.

    UniRoute (arXiv 2502.08773) with the pool's cheapest and dearest LLM as limits. Steps, no mixing: at a
    cost between two operating points the router stays at the cheaper one. Costs below its cheapest point
    count as that point. Where all LLMs cost the same, it is the highest quality.
    """
    points = (curve.costs[:, None], curve.qualities[:, None])
    return float(areas(*points, low=np.array([low]), high=np.array([high]))[0])


def areas(costs: Matrix, qualities: Matrix, *, low: Vector, high: Vector) -> Vector:
    """Area of B curves at once: ``costs`` and ``qualities`` (P, B), limits (B,); see ``area``."""
    order = np.argsort(costs, axis=0, kind="stable")
    envelope = np.maximum.accumulate(np.take_along_axis(qualities, order, axis=0), axis=0)
    edges = np.clip(np.take_along_axis(costs, order, axis=0), low, high)
    widths = np.diff(edges, axis=0, append=high[None])
    widths[0] += edges[0] - low
    span = high - low
    flat = span <= SAME_QUALITY * np.abs(high)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (envelope * widths).sum(axis=0) / span
    result: Vector = np.where(flat, envelope[-1], means)
    return result


def area_hull(curve: DeferralCurve, low: float, high: float) -> float:
    """Area under the non-decreasing concave hull: what random mixing of two points reaches."""
    hull = curve.hull()
    if high - low <= SAME_QUALITY * abs(high):
        return float(hull.qualities[-1])
    inner = hull.costs[(hull.costs > low) & (hull.costs < high)]
    edges = np.concatenate(([low], inner, [high]))
    return float(np.trapezoid(np.interp(edges, hull.costs, hull.qualities), edges) / (high - low))


def area_half(curve: DeferralCurve, low: float, high: float) -> float:
    """Area at 50 %: the Area over the cheaper half of the cost range, where routing has most to decide."""
    return area(curve, low, low + 0.5 * (high - low))


def aiq(curve: DeferralCurve, low: float, high: float) -> float:
    """AIQ (RouterBench, arXiv 2403.12031): mean of the non-decreasing convex hull over [c_min, c_max].

    RouterBench takes one range for all routers it compares; with the pool's cheapest and dearest LLM as that
    range, AIQ and the hull Area are the same number under two names.
    """
    return area_hull(curve, low, high)


def peak(curve: DeferralCurve) -> float:
    """Peak: the highest mean score at any cost."""
    return float(curve.qualities.max())


def least_cost(curve: DeferralCurve, quality: float) -> float:
    """Return the least cost of an operating point with at least ``quality``; infinite if there is none."""
    reached = curve.qualities >= quality - SAME_QUALITY
    return float(curve.costs[reached].min()) if reached.any() else np.inf


def quality_neutral_cost(curve: DeferralCurve, pool: Pool) -> float:
    """QNC (UniRoute): least cost reaching the best single LLM's quality / that LLM's cost; infinite if never.

    No mixing. 0 if the best single LLM costs nothing and so does the point.
    """
    cost, reference = least_cost(curve, float(pool.qualities[pool.best])), float(pool.costs[pool.best])
    return _ratio(cost, reference)


def cost_save(curve: DeferralCurve, pool: Pool, *, within: float = 0.01) -> float:
    """CostSave@d: 1 - least cost within d = ``within`` of the best single LLM's quality / that LLM's cost.

    0 where the router never comes so close, or only at a higher cost: a caller would stay with the LLM.
    """
    cost = least_cost(curve, float(pool.qualities[pool.best]) - within)
    return max(0.0, 1.0 - _ratio(cost, float(pool.costs[pool.best])))


def oracle_gap(curve: DeferralCurve, scores: NDArray[np.float64]) -> float:
    """Mean over prompts of the best of the ``scores`` (n, H), minus the curve's peak."""
    return float(scores.max(axis=1).mean()) - peak(curve)


def _ratio(cost: float, reference: float) -> float:
    if reference > 0.0:
        return cost / reference
    return 0.0 if cost <= 0.0 else np.inf
