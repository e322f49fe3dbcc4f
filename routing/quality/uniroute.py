"""UniRoute: raw mean errors per cluster of a hard k-means map, or of a LearnedMap."""

import math

import numpy as np

from routing.clusters import ClusterMap, fit_learned_map
from routing.embedders import FloatMatrix
from routing.quality.cells import CellEstimator, choose_map
from routing.quality.counts import Matrix, count_errors


class UniRouteKMeans(CellEstimator):
    """Predicts an LLM's mean error over its labels in the prompt's cluster.

    A cluster without labels gets the LLM's overall mean, an LLM without labels the known LLMs' mean: never
    0. Thin clusters stay raw, which is this estimator's known weakness; see ``ShrunkCells``. With one
    cluster it is the ZeroRouter. ``cluster_map``, when given, is used hard instead of fitting one. Source:
    UniRoute (arXiv 2502.08773), K-Means.
    """

    def __init__(self, n_clusters: int = 20, cluster_map: ClusterMap | None = None, seed: int = 0) -> None:
        self.n_clusters = n_clusters
        self.cluster_map = cluster_map
        self.seed = seed

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:  # noqa: ARG002 - clusters need no labels
        found = choose_map(
            self.cluster_map, X, sizes=(self.n_clusters,), temperature=math.inf, seed=self.seed
        )
        self.map_ = found.with_temperature(math.inf)

    def _rates(self, errors: Matrix, labels: Matrix) -> Matrix:
        return mean_errors(errors, labels, unlabelled=self.level_.mean)


class UniRouteLearned(CellEstimator):
    """UniRoute with a softmax map whose weights are learned from the known LLMs' outcomes.

    Their rates per cell, counted on the training prompts, stay fixed while the map learns; a new LLM's
    rates are raw means per hard cell, as in ``UniRouteKMeans``. Source: UniRoute (arXiv 2502.08773),
    LearnedMap.
    """

    def __init__(self, n_clusters: int = 20, cluster_map: ClusterMap | None = None, seed: int = 0) -> None:
        self.n_clusters = n_clusters
        self.cluster_map = cluster_map
        self.seed = seed

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:
        hard = choose_map(self.cluster_map, X, sizes=(self.n_clusters,), temperature=math.inf, seed=self.seed)
        n_prompts, n_llms = errors.shape
        counts = count_errors(
            np.repeat(hard.cells(X), n_llms, axis=0),
            np.tile(np.arange(n_llms), n_prompts),
            errors.ravel(),
            n_cells=sum(hard.sizes),
            n_llms=n_llms,
        )
        rates = mean_errors(counts.errors, counts.labels, unlabelled=self.level_.mean)
        self.map_ = fit_learned_map(hard, X, errors, rates, rng=np.random.default_rng(self.seed))

    def _rates(self, errors: Matrix, labels: Matrix) -> Matrix:
        return mean_errors(errors, labels, unlabelled=self.level_.mean)


def mean_errors(errors: Matrix, labels: Matrix, *, unlabelled: float) -> Matrix:
    """Give errors / labels per cell and LLM, shape (C, H); an empty cell gets its LLM's overall mean.

    An LLM without any label gets ``unlabelled``. With several resolutions the overall mean is over all of
    them, which comes to the same since each holds every label.
    """
    totals = labels.sum(axis=0)
    overall = np.full(labels.shape[1], unlabelled)
    np.divide(errors.sum(axis=0), totals, out=overall, where=totals > 0)
    rates = np.tile(overall, (len(labels), 1))
    np.divide(errors, labels, out=rates, where=labels > 0)
    return rates
