"""Deferral curves: mean cost against mean quality for every value of lambda, exactly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import InvalidInputError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Choices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutingPath:
    """What ``argmin_h error(x, h) + lambda * cost(x, h)`` chooses for each of n prompts, for every lambda.

    At lambda = 0 the predicted error alone decides; coarse estimates often tie there, and a tie may be broken
    two ways: ``by_name`` takes the first LLM, ``cheapest`` the least cost. As lambda grows from 0, prompts
    switch, one LLM at a time, to cheaper ones; a tie at a switch goes to the cheaper.
    """

    #: (n,): least predicted error, ties to the first column.
    by_name: Choices
    #: (n,): least predicted error, ties to the least cost, then to the first column.
    cheapest: Choices
    #: (E,): where prompts switch, ascending, in error per unit of cost.
    lambdas: Vector
    #: (E,): which prompt switches there.
    prompts: Choices
    #: (E,): to which LLM.
    llms: Choices

    def choices(self, error_per_cost: float) -> Choices:
        """Return the (n,) LLMs chosen at one lambda >= 0; ties to the cheaper."""
        chosen = self.cheapest.copy()
        last = int(np.searchsorted(self.lambdas, error_per_cost, side="right"))
        chosen[self.prompts[:last]] = self.llms[:last]
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeferralCurve:
    """The operating points of one router, in no particular order; costs in the unit of the outcomes."""

    #: (P,): mean cost per prompt.
    costs: Vector
    #: (P,): mean score.
    qualities: Vector

    def __post_init__(self) -> None:
        if self.costs.ndim != 1 or self.costs.shape != self.qualities.shape or not self.costs.size:
            raise InvalidInputError(
                "costs", "a deferral curve needs as many costs as qualities, at least one"
            )
        if not (np.isfinite(self.costs).all() and np.isfinite(self.qualities).all()):
            raise InvalidInputError("costs", "a deferral curve needs finite costs and qualities")

    def envelope(self) -> "DeferralCurve":
        """Return the best quality at no more than each cost: costs and qualities strictly ascending.

        The curve between two of its points is the step at the left one: no mixing of operating points.
        """
        order = np.lexsort((-self.qualities, self.costs))
        costs, qualities = self.costs[order], np.maximum.accumulate(self.qualities[order])
        better = np.append(True, qualities[1:] > qualities[:-1])
        return DeferralCurve(costs=costs[better], qualities=qualities[better])

    def hull(self) -> "DeferralCurve":
        """Return the corners of the non-decreasing concave hull: what random mixing of two points reaches."""
        pareto = self.envelope()
        corners: list[tuple[float, float]] = []
        for cost, quality in zip(pareto.costs.tolist(), pareto.qualities.tolist(), strict=True):
            while len(corners) > 1 and _below(corners[-1], corners[-2], (cost, quality)):
                corners.pop()
            corners.append((cost, quality))
        points = np.array(corners)
        return DeferralCurve(costs=points[:, 0], qualities=points[:, 1])


def _below(middle: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether ``middle`` is on or under the line from ``left`` to ``right``."""
    rise = (middle[1] - left[1]) * (right[0] - left[0])
    return rise <= (right[1] - left[1]) * (middle[0] - left[0])


def trace_path(errors: ArrayLike, costs: ArrayLike) -> RoutingPath:
    """Find every lambda at which the rule changes its mind on a prompt.

    Parameters: ``errors`` (n, H), predicted; ``costs`` (H,) or (n, H), what the rule weighs them with. For
    each prompt the chosen LLM is a lower envelope of H lines in lambda; it is walked from lambda = 0, all
    prompts at once, in at most H - 1 steps of O(n H).
    """
    predicted = np.asarray(errors, dtype=np.float64)
    if predicted.ndim != 2 or 0 in predicted.shape:  # noqa: PLR2004
        raise InvalidInputError("errors", f"must be (prompts, LLMs), not {predicted.shape}")
    prices = np.broadcast_to(np.asarray(costs, dtype=np.float64), predicted.shape)
    if not (np.isfinite(predicted).all() and np.isfinite(prices).all()):
        raise InvalidInputError("errors", "predicted errors and costs must be finite")
    rows = np.arange(len(predicted))
    by_name = predicted.argmin(axis=1)
    least = predicted[rows, by_name]
    cheapest = np.where(predicted <= least[:, None], prices, np.inf).argmin(axis=1)

    chosen, reached = cheapest.copy(), np.zeros(len(predicted))
    active = rows
    switches: list[tuple[Vector, Choices, Choices]] = []
    while active.size:
        now = chosen[active]
        saved = prices[active, now][:, None] - prices[active]
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(
                saved > 0, (predicted[active] - predicted[active, now][:, None]) / saved, np.inf
            )
        first = slopes.min(axis=1)
        taken = np.where(slopes <= first[:, None], prices[active], np.inf).argmin(axis=1)
        goes_on = np.isfinite(first)
        active, taken, first = active[goes_on], taken[goes_on], first[goes_on]
        chosen[active] = taken
        # Rounding must not let a later switch of a prompt come before an earlier one.
        reached[active] = np.maximum(reached[active], first)
        switches.append((reached[active], active, taken))
    lambdas, prompts, llms = (np.concatenate(parts) for parts in zip(*switches, strict=True))
    order = np.argsort(lambdas, kind="stable")
    return RoutingPath(
        by_name=by_name, cheapest=cheapest, lambdas=lambdas[order], prompts=prompts[order], llms=llms[order]
    )


def follow_path(
    path: RoutingPath, scores: Matrix, costs: Matrix, *, lambdas: Vector | None = None
) -> DeferralCurve:
    """Return the realised curve of a path: one point per distinct lambda, and both ends of lambda = 0.

    Parameters: ``scores`` and ``costs`` (n, H), as recorded for each prompt and LLM; with ``lambdas`` (> 0)
    the curve has only the points at these, and the one at lambda = 0 with ties by name.
    """
    rows = np.arange(len(scores))
    before = _previous_llms(path)
    n = len(scores)
    if lambdas is None:
        ends = _last_of_each(path.lambdas)
    else:
        ends = np.unique(np.searchsorted(path.lambdas, lambdas, side="right"))

    def means(values: Matrix) -> Vector:
        steps = values[path.prompts, path.llms] - values[path.prompts, before]
        start = values[rows, path.cheapest].sum()
        along = np.append(start, start + np.cumsum(steps))[ends]
        return np.append(values[rows, path.by_name].sum(), along) / n

    return DeferralCurve(costs=means(costs), qualities=means(scores))


def sample_path(path: RoutingPath, *, points: int = 200) -> Choices:
    """Return (P, n) choices along a path, P <= ``points`` + 1: both ends, and switches evenly between."""
    ends = _last_of_each(path.lambdas)
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(np.int64))]
    chosen, done = path.cheapest.copy(), 0
    rows = [path.by_name]
    for end in ends:
        chosen[path.prompts[done:end]] = path.llms[done:end]
        done = end
        rows.append(chosen.copy())
    return np.stack(rows)


def _previous_llms(path: RoutingPath) -> Choices:
    """(E,): which LLM each switch leaves."""
    order = np.argsort(path.prompts, kind="stable")
    prompts, llms = path.prompts[order], path.llms[order]
    before = np.append(np.int64(0), llms[:-1])[: len(llms)]
    is_first = np.append(True, prompts[1:] != prompts[:-1])[: len(prompts)]
    before = np.where(is_first, path.cheapest[prompts], before)
    unsorted = np.empty_like(before)
    unsorted[order] = before
    return unsorted


def _last_of_each(lambdas: Vector) -> Choices:
    """How many switches are done at lambda -> 0+ and after each distinct lambda > 0."""
    if not lambdas.size:
        return np.zeros(1, dtype=np.int64)
    ends = np.flatnonzero(np.append(lambdas[1:] > lambdas[:-1], True)) + 1
    return np.append(0, ends).astype(np.int64)
