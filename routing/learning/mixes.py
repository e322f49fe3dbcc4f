"""Noticing that prompts are no longer those that a map was fitted on."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr

from routing.errors import InvalidInputError
from routing.quality.counts import Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class MixRule:
    """When prompts are held to be others than the map was fitted on: beyond chance, and by so much."""

    #: Of each of the two tests.
    confidence: float = 0.999
    #: Total variation distance between shares of clusters: the share of prompts that moved.
    moved: float = 0.1
    #: Increase of the distance to the nearest centroid, in standard deviations of one prompt's.
    farther: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptMix:
    """What prompts come to, as sums, so that windows can be added up."""

    #: Prompts per cell of one resolution, (K,).
    cells: Vector
    #: Sums over prompts of the distance to the nearest centroid, and of its square.
    distance: float
    distance_squared: float

    @classmethod
    def of(cls, cells: ArrayLike, distances: ArrayLike, *, size: int) -> Self:
        """Sum up prompts: ``cells`` (n,) in 0..size-1 and ``distances`` (n,)."""
        far = np.asarray(distances, dtype=np.float64)
        counts = np.bincount(np.asarray(cells, dtype=np.int64), minlength=size).astype(np.float64)
        return cls(cells=counts, distance=float(far.sum()), distance_squared=float((far**2).sum()))

    def __add__(self, other: "PromptMix") -> "PromptMix":
        """Pool the prompts of both."""
        return PromptMix(
            cells=self.cells + other.cells,
            distance=self.distance + other.distance,
            distance_squared=self.distance_squared + other.distance_squared,
        )

    @property
    def prompts(self) -> float:
        """Their number n."""
        return float(self.cells.sum())

    @property
    def mean_distance(self) -> float:
        """The mean distance; 0 without prompts."""
        return self.distance / max(self.prompts, 1.0)

    @property
    def distance_variance(self) -> float:
        """The variance of one prompt's distance, with n - 1; 0 below two prompts."""
        n = self.prompts
        return max(0.0, self.distance_squared - n * self.mean_distance**2) / max(n - 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixReport:
    """How a window of prompts differs from those of the map."""

    #: Total variation distance of the shares of clusters, less what chance explains; in [0, 1].
    moved: float
    #: Rise of the mean distance to the nearest centroid, in standard deviations of one prompt's.
    farther: float
    #: Of the shares, and of the distance, under no change.
    shares_p: float
    distance_p: float
    #: Whether either is beyond chance and beyond the rule's size.
    drifted: bool


def compare_mix(reference: PromptMix, recent: PromptMix, *, rule: MixRule | None = None) -> MixReport:
    """Hold a window of prompts against those that the map was fitted on.

    Shares are compared by Pearson's two-sample chi-square, distances by Welch's z. An empty window has not
    drifted. ``InvalidInputError`` unless both have the same cells and the reference two prompts.
    """
    rule = rule or MixRule()
    old, new = reference.cells, recent.cells
    if old.shape != new.shape or old.ndim != 1 or reference.prompts < 2:  # noqa: PLR2004 - a spread
        raise InvalidInputError("reference", "counts of the same cells, and 2 prompts, are needed")
    if recent.prompts < 1:
        return MixReport(moved=0.0, farther=0.0, shares_p=1.0, distance_p=1.0, drifted=False)
    moved, shares_p = _compare_shares(old, new)
    rise = recent.mean_distance - reference.mean_distance
    error = float(
        np.sqrt(
            reference.distance_variance / reference.prompts
            + max(recent.distance_variance, 1e-12) / recent.prompts
        )
    )
    spread = float(np.sqrt(reference.distance_variance))
    distance_p = float(ndtr(-rise / error))
    steps = rise / spread if spread > 0 else 0.0
    limit = 1 - rule.confidence
    drifted = (shares_p < limit and moved > rule.moved) or (distance_p < limit and steps > rule.farther)
    return MixReport(moved=moved, farther=steps, shares_p=shares_p, distance_p=distance_p, drifted=drifted)


def _compare_shares(old: Vector, new: Vector) -> tuple[float, float]:
    """Give the total variation distance less what chance explains, and the p-value of the chi-square."""
    seen = old + new > 0
    old, new = old[seen], new[seen]
    pooled = (old + new) / (old.sum() + new.sum())
    statistic = sum(float((((n - n.sum() * pooled) ** 2) / (n.sum() * pooled)).sum()) for n in (old, new))
    # What |difference| a cell shows by chance alone: sqrt(2 v / pi), v its variance.
    chance = np.sqrt(2 / np.pi * pooled * (1 - pooled) * (1 / old.sum() + 1 / new.sum()))
    gaps = np.abs(new / new.sum() - old / old.sum())
    p_value = float(chdtrc(len(old) - 1, statistic)) if len(old) > 1 else 1.0
    return float(max(0.0, 0.5 * (gaps - chance).sum())), p_value
