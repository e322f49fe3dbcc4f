"""Estimators of the form gamma(x, h) = Phi(x) . Psi(h): cluster weights times error rates per cell."""

from abc import abstractmethod

import numpy as np

from routing.clusters import ClusterMap, LearnedMap
from routing.embedders import FloatMatrix
from routing.quality.counts import Matrix, Vector, count_errors
from routing.quality.estimators import OnboardingEstimator
from routing.quality.maps import share_map

#: Rates are rounded to multiples of 2**-28 and map weights are multiples of 2**-24, so their sums of
#: products are exact in float64 and no column depends on how many others stand beside it.
_RATE_GRID = 2.0**28


class CellEstimator(OnboardingEstimator[Vector]):
    """Counts a new LLM's labels in the hard cells of a map, and predicts with the map's weights.

    What was learned of an LLM is its rate per cell. After ``fit``, ``map_`` is the map.
    """

    map_: ClusterMap | LearnedMap

    @abstractmethod
    def _rates(self, errors: Matrix, labels: Matrix) -> Matrix:
        """Turn one LLM's counts, shape (C, 1), into its rates per cell, shape (C, 1)."""

    def _learn(self, X: FloatMatrix, errors: Vector) -> Vector:
        counts = self._count(X, errors)
        rates = self._rates(*counts)[:, 0]
        return np.rint(rates * _RATE_GRID) / _RATE_GRID

    def _count(self, X: FloatMatrix, errors: Vector) -> tuple[Matrix, Matrix]:
        n_cells = sum(self.map_.sizes)
        ones = np.zeros(len(X), dtype=np.int64)
        counts = count_errors(self.map_.cells(X), ones, errors, n_cells=n_cells, n_llms=1)
        return counts.errors, counts.labels

    def _predict(self, X: FloatMatrix, learned: list[Vector]) -> Matrix:
        rates = np.column_stack(learned)
        return self.map_.weights(X).astype(np.float64) @ rates


def choose_map(
    given: ClusterMap | None, X: FloatMatrix, *, sizes: tuple[int, ...], temperature: float, seed: int
) -> ClusterMap:
    """Give the map a caller brought, at its own temperature; otherwise the shared k-means map of ``X``."""
    if given is not None:
        return given
    return share_map(X, sizes=sizes, temperature=temperature, seed=seed)
