"""Is a map any good: how prompts cover its cells, how clearly they belong, and how far cells mislead."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.clusters.cluster_map import ClusterMap
from routing.clusters.placement import check_embeddings
from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError

_Matrix = NDArray[np.float64]
#: Rows compared with all others at a time.
_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How ``n`` prompts lie in the ``C`` cells of a map."""

    #: Shape (C,): prompts in each cell.
    prompts: NDArray[np.int64]
    #: Shape (C,): their share within the cell's resolution; rows of one resolution sum to 1.
    shares: _Matrix
    #: Shape (C,): mean squared distance to the centroid; NaN in an empty cell.
    spreads: _Matrix
    #: Shape (C,): mean assignment margin of its prompts; NaN in an empty cell.
    margins: _Matrix

    @property
    def empty_cells(self) -> NDArray[np.int64]:
        """Columns of the cells that hold no prompt."""
        return np.flatnonzero(self.prompts == 0)


def assignment_margins(cluster_map: ClusterMap, X: FloatMatrix) -> _Matrix:
    """Give, for each prompt and resolution, how much farther the second centroid is than the nearest: (n, R).

    Euclidean distances, at least 0; ``inf`` in a resolution of one cell, where nothing else could be meant.
    """
    distances = _distances(cluster_map, X)
    margins = np.full((len(distances), len(cluster_map.sizes)), np.inf)
    first = 0
    for resolution, size in enumerate(cluster_map.sizes):
        if size > 1:
            two = np.partition(distances[:, first : first + size], 1, axis=1)[:, :2]
            margins[:, resolution] = two[:, 1] - two[:, 0]
        first += size
    return margins


def measure_coverage(cluster_map: ClusterMap, X: FloatMatrix) -> Coverage:
    """Count how the unit rows ``X``, shape (n, d), cover the cells."""
    cells = cluster_map.cells(X).astype(np.intp)
    n_cells = sum(cluster_map.sizes)
    prompts = np.bincount(cells.ravel(), minlength=n_cells)
    squares = np.take_along_axis(_distances(cluster_map, X), cells, axis=1) ** 2
    margins = assignment_margins(cluster_map, X)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Coverage(
            prompts=prompts,
            shares=prompts / max(1, len(cells)),
            spreads=np.bincount(cells.ravel(), squares.ravel(), n_cells) / prompts,
            margins=np.bincount(cells.ravel(), margins.ravel(), n_cells) / prompts,
        )


def neighbour_errors(X: FloatMatrix, wrong: _Matrix, *, k: int = 20) -> _Matrix:
    """Give each prompt's mean error over its ``k`` nearest other prompts, per LLM: shape (n, S).

    ``X`` holds unit rows (n, d), ``wrong`` (n, S). With fewer than ``k`` others all are taken; a single
    prompt has none, and ``InvalidInputError`` is raised.
    """
    n = len(X)
    if len(wrong) != n or n < 2 or k < 1:  # noqa: PLR2004  # a neighbour is another prompt
        raise InvalidInputError("wrong", f"must have a row for each of 2 or more prompts, not {len(wrong)}")
    k = min(k, n - 1)
    means = np.empty(wrong.shape, dtype=np.float64)
    for start in range(0, n, _BLOCK):
        nearness = X[start : start + _BLOCK] @ X.T
        rows = np.arange(len(nearness))
        nearness[rows, start + rows] = -np.inf
        nearest = np.argpartition(-nearness, k - 1, axis=1)[:, :k]
        means[start : start + _BLOCK] = wrong[nearest].mean(axis=1)
    return means


def cell_bias(
    cluster_map: ClusterMap, X: FloatMatrix, wrong: _Matrix, error_rates: _Matrix, *, k: int = 20
) -> _Matrix:
    """Give per cell and LLM the root mean square of local error minus the cell's rate: shape (C, S).

    The local error is ``neighbour_errors``; the noise of ``k`` labels, ``rate (1 - rate) / k``, is taken out
    before the root (never below 0), so that what stays is how much prompts within a cell differ. NaN in an
    empty cell. UniRoute's excess risk is at most twice the mean of the greatest such difference over LLMs.
    """
    local = neighbour_errors(X, wrong, k=k)
    cells = cluster_map.cells(X)
    bias = np.full(error_rates.shape, np.nan)
    for cell in np.unique(cells):
        inside = (cells == cell).any(axis=1)
        square = ((local[inside] - error_rates[cell]) ** 2).mean(axis=0)
        noise = error_rates[cell] * (1 - error_rates[cell]) / min(k, len(X) - 1)
        bias[cell] = np.sqrt(np.maximum(square - noise, 0))
    return bias


def cell_deviation(error_rates: _Matrix, labels: _Matrix, *, strength: float = 0.0) -> _Matrix:
    """Give each rate's standard deviation, ``sqrt(rate (1 - rate) / (labels + strength))``, shape (C, S).

    ``strength`` counts the pseudo-labels of a shrunk rate. A cell without labels and strength has ``inf``.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(error_rates * (1 - error_rates) / (labels + strength))
    return np.where(labels + strength > 0, deviation, np.inf)


def share_of_ties(errors: _Matrix) -> float:
    """Give the share of prompts for which two or more LLMs tie, exactly, for the least of ``errors`` (n, H).

    0 without prompts. Where it is high, the tie rule routes, not the estimate: raw means of few labels tie
    often.
    """
    if errors.size == 0:
        return 0.0
    at_least = (errors == errors.min(axis=1, keepdims=True)).sum(axis=1)
    return float((at_least > 1).mean())


def _distances(cluster_map: ClusterMap, X: FloatMatrix) -> _Matrix:
    X = check_embeddings(X, cluster_map.centroids.shape[1])
    centroids = cluster_map.centroids.astype(np.float64)
    squares = (X.astype(np.float64) ** 2).sum(axis=1, keepdims=True) + (centroids**2).sum(axis=1)
    distances: _Matrix = np.sqrt(np.maximum(squares - 2 * (X @ centroids.T), 0))
    return distances
