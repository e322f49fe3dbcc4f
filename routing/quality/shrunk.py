"""Shrunk error rates over hard, soft or stacked maps: what a new LLM's own labels can tell."""

import math

from routing.clusters import ClusterMap
from routing.embedders import FloatMatrix
from routing.quality.cells import CellEstimator, choose_map
from routing.quality.counts import Matrix
from routing.quality.shrinkage import shrink_error_rates


class ShrunkCells(CellEstimator):
    """Predicts with empirical-Bayes error rates of one or several resolutions.

    ``temperature`` inf is the hard map, about 12 suits 20 clusters of all-MiniLM-L6-v2 and 16 finer maps.
    Labels are always counted in hard cells: soft on both sides is worse. With ``use_level`` the LLM's
    overall rate is itself pulled towards those of the known LLMs, exactly as in PoolPrior with at most two
    known LLMs. ``cluster_map``, when given, is used at its own temperature instead of fitting one.
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (20,),
        temperature: float = math.inf,
        use_level: bool = False,  # noqa: FBT001, FBT002 - scikit-learn's parameters have names
        cluster_map: ClusterMap | None = None,
        seed: int = 0,
    ) -> None:
        self.sizes = sizes
        self.temperature = temperature
        self.use_level = use_level
        self.cluster_map = cluster_map
        self.seed = seed

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:  # noqa: ARG002 - clusters need no labels
        self.map_ = choose_map(
            self.cluster_map, X, sizes=tuple(self.sizes), temperature=self.temperature, seed=self.seed
        )

    def _rates(self, errors: Matrix, labels: Matrix) -> Matrix:
        level = self.level_ if self.use_level or labels.sum() <= 0 else None
        return shrink_error_rates(errors, labels, sizes=self.map_.sizes, level=level)
