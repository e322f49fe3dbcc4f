"""Choose a map's number of clusters and its temperature by what they are worth, not by hand."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.clusters.cluster_map import ClusterMap
from routing.clusters.kmeans import DEFAULT_TEMPERATURE, fit_cluster_map
from routing.clusters.learning import log_loss
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InvalidInputError

#: What a map is worth; greater is better. In UniRoute: the Area of routing the training LLMs on validation
#: prompts.
Score = Callable[[ClusterMap], float]

#: Numbers of clusters to try when none is asked for.
CANDIDATE_SIZES = (1, 3, 5, 10, 20, 40, 80)
#: Temperatures to try; ``inf`` is the hard map.
CANDIDATE_TEMPERATURES = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, math.inf)


@dataclass(frozen=True, slots=True)
class Selection:
    """The best of the maps tried, and what each was worth, in the order in which they were tried."""

    best: ClusterMap
    tried: tuple[ClusterMap, ...]
    scores: tuple[float, ...]


def select_map(maps: Iterable[ClusterMap], score: Score) -> Selection:
    """Score each map and keep the best; of equals the first, so list the simplest first.

    Raises ``InvalidInputError`` without a map, or when a score is NaN.
    """
    tried = tuple(maps)
    scores = tuple(float(score(cluster_map)) for cluster_map in tried)
    if not tried:
        raise InvalidInputError("maps", "must hold at least one map")
    if any(math.isnan(value) for value in scores):
        raise InvalidInputError("score", "must not be NaN")
    return Selection(tried[scores.index(max(scores))], tried, scores)


def select_size(
    X: FloatMatrix,
    score: Score,
    *,
    fingerprint: Fingerprint,
    sizes: Sequence[int] = CANDIDATE_SIZES,
    temperature: float = math.inf,
    seed: int = 0,
) -> Selection:
    """Choose K of a map with one resolution as UniRoute does: fit each on unit rows ``X``, keep the best.

    Of equal scores the smaller K wins. Sizes above the number of distinct prompts give the same map, and one
    is kept.
    """
    fitted = (
        fit_cluster_map(X, sizes=(size,), temperature=temperature, fingerprint=fingerprint, seed=seed)
        for size in sorted(set(sizes))
    )
    return select_map(dict.fromkeys(fitted), score)


def select_temperature(
    cluster_map: ClusterMap, score: Score, *, temperatures: Sequence[float] = CANDIDATE_TEMPERATURES
) -> Selection:
    """Choose the temperature with the best score; of equals the lower: the softer and steadier."""
    return select_map((cluster_map.with_temperature(value) for value in sorted(temperatures)), score)


def fit_temperature(
    cluster_map: ClusterMap,
    X: FloatMatrix,
    wrong: NDArray[np.float64],
    error_rates: NDArray[np.float64],
    *,
    temperatures: Sequence[float] = CANDIDATE_TEMPERATURES,
) -> ClusterMap:
    """Give the map with the temperature that makes held-out outcomes of known LLMs most likely.

    ``X`` (n, d) and ``wrong`` (n, S), in 0..1 or NaN, are prompts that ``error_rates`` (C, S) were NOT
    counted on: on the same prompts the hardest temperature would always look best. The loss is the log loss
    of ``weights @ error_rates``. No evaluation of routes is needed; ``select_temperature`` is the slower
    alternative that optimises the routing itself. Without an outcome the default temperature is kept.
    """
    if wrong.shape[:1] != X.shape[:1] or error_rates.shape != (sum(cluster_map.sizes), *wrong.shape[1:]):
        raise InvalidInputError("wrong", f"of shape {wrong.shape} does not fit rates {error_rates.shape}")
    if np.all(np.isnan(wrong)):
        return cluster_map.with_temperature(DEFAULT_TEMPERATURE)

    def likelihood(tried: ClusterMap) -> float:
        return -log_loss(tried.weights(X).astype(np.float64) @ error_rates, wrong)

    return select_temperature(cluster_map, likelihood, temperatures=temperatures).best
