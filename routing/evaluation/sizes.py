"""The number of clusters: set in any estimator that has one, or chosen as UniRoute does."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from routing.clusters import ClusterMap, select_map
from routing.clusters.selection import CANDIDATE_SIZES
from routing.evaluation.curves import follow_path, trace_path
from routing.evaluation.draws import Trial
from routing.evaluation.metrics import Pool, area
from routing.evaluation.outcomes import RecordedOutcomes
from routing.quality.estimators import Estimator
from routing.quality.maps import share_map
from routing.quality.uniroute import UniRouteKMeans


def set_clusters(estimator: Estimator, n_clusters: int) -> Estimator:
    """Give an estimator its number of clusters, in place; several resolutions, or none, are left alone."""
    parameters = estimator.get_params()
    tunable: Any = estimator
    if "n_clusters" in parameters:
        tunable.set_params(n_clusters=n_clusters)
    elif len(parameters.get("sizes", ())) == 1:
        tunable.set_params(sizes=(n_clusters,))
    return estimator


def choose_clusters(
    outcomes: RecordedOutcomes, trial: Trial, *, candidates: Sequence[int] = CANDIDATE_SIZES, seed: int = 0
) -> int:
    """Choose K by routing the known LLMs on val prompts, their rates from train prompts: the largest Area.

    Of equal Areas the smaller K. The unseen LLMs are not looked at. Source: UniRoute (arXiv 2502.08773).
    """
    X = np.ascontiguousarray(outcomes.embeddings[outcomes.train], dtype=np.float32)
    val, train = np.ix_(outcomes.val, trial.known), np.ix_(outcomes.train, trial.known)
    scores, costs = outcomes.scores[val], outcomes.costs[val]
    limits = Pool.of(scores, costs).cost_range
    names = [outcomes.llms[column] for column in trial.known]

    def score(cluster_map: ClusterMap) -> float:
        estimator = UniRouteKMeans(cluster_map=cluster_map)
        estimator.fit(X, 1.0 - outcomes.scores[train], names)
        for name, column in zip(names, trial.known, strict=True):
            estimator.add_llm(name, X, 1.0 - outcomes.scores[outcomes.train, column])
        predicted = estimator.predict_error(outcomes.embeddings[outcomes.val])
        return area(
            follow_path(trace_path(predicted, outcomes.costs[train].mean(axis=0)), scores, costs), *limits
        )

    sizes = sorted({min(size, len(X)) for size in candidates})
    maps = [share_map(X, sizes=(size,), temperature=math.inf, seed=seed) for size in sizes]
    return sizes[maps.index(select_map(maps, score).best)]
