"""What ties the estimators to each other and to the papers."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone

from routing.clusters import ClusterMap, fit_cluster_map
from routing.embedders import Fingerprint
from routing.quality.estimators import Estimator
from routing.quality.maps import share_map
from routing.quality.neighbours import NearestNeighbours
from routing.quality.pooled import PoolPriorEstimator
from routing.quality.registry import ESTIMATORS
from routing.quality.shrunk import ShrunkCells
from routing.quality.uniroute import UniRouteKMeans, UniRouteLearned
from routing.quality.zero import ZeroRouter

Rows = NDArray[np.float32]
Array = NDArray[np.float64]
FINGERPRINT = Fingerprint(name="drawn", dimension=6, precision="f32", max_length=0, checksum="")


def draw(n: int, n_llms: int, *, seed: int) -> tuple[Rows, Array]:
    """Give unit rows (n, 6) and errors (n, n_llms) that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    rates = 1 / (1 + np.exp(-X @ np.random.default_rng(1).normal(scale=2, size=(6, n_llms))))
    return X.astype(np.float32), (rng.random(rates.shape) < rates).astype(float)


def fit(estimator: Estimator, *, n_known: int = 5) -> Estimator:
    """Fit on ``n_known`` LLMs and 300 prompts."""
    X, errors = draw(300, n_known, seed=2)
    return estimator.fit(X, errors, [f"known{llm}" for llm in range(n_known)])


def map_of(centroids: Rows) -> ClusterMap:
    """Give a hard map of one resolution around these centroids."""
    return ClusterMap(
        centroids=centroids, sizes=(len(centroids),), temperature=math.inf, fingerprint=FINGERPRINT
    )


@pytest.mark.parametrize(
    "one_cluster", [UniRouteKMeans(n_clusters=1), UniRouteLearned(n_clusters=1), ShrunkCells(sizes=(1,))]
)
def test_one_cluster_is_the_zero_router(one_cluster: Estimator) -> None:
    """K = 1 predicts an LLM's mean error everywhere, as the ZeroRouter does: equal end points."""
    X, errors = draw(40, 1, seed=3)
    unseen, _ = draw(20, 1, seed=4)

    predicted = fit(clone(one_cluster)).add_llm("eve", X, errors[:, 0]).predict_error(unseen)

    zero = fit(ZeroRouter()).add_llm("eve", X, errors[:, 0]).predict_error(unseen)
    np.testing.assert_allclose(zero, errors.mean(), rtol=1e-14)
    np.testing.assert_allclose(predicted, zero, atol=1e-6)


def test_nearest_neighbour_is_uniroute_with_a_cluster_per_labelled_prompt() -> None:
    """One neighbour, or a map whose centroids are the labelled prompts: the same error for every prompt."""
    X, errors = draw(40, 1, seed=3)
    unseen, _ = draw(200, 1, seed=4)

    nearest = fit(NearestNeighbours(n_neighbours=1)).add_llm("eve", X, errors[:, 0])
    clustered = fit(UniRouteKMeans(cluster_map=map_of(X))).add_llm("eve", X, errors[:, 0])

    np.testing.assert_array_equal(nearest.predict_error(unseen), clustered.predict_error(unseen))


def test_all_labels_as_neighbours_is_the_zero_router() -> None:
    """With as many neighbours as labels, kNN predicts the mean error everywhere."""
    X, errors = draw(20, 1, seed=3)
    unseen, _ = draw(9, 1, seed=4)

    predicted = fit(NearestNeighbours()).add_llm("eve", X, errors[:, 0]).predict_error(unseen)

    np.testing.assert_allclose(predicted, errors.mean(), rtol=1e-12)


@pytest.mark.parametrize("kind", [UniRouteKMeans, ShrunkCells])
def test_relabelling_clusters_changes_no_prediction(kind: type[UniRouteKMeans | ShrunkCells]) -> None:
    """The order of the centroids has no meaning."""
    X, errors = draw(80, 1, seed=3)
    unseen, _ = draw(50, 1, seed=4)
    centroids, _ = draw(7, 1, seed=5)
    order = np.array([3, 0, 6, 2, 5, 1, 4])

    plain = fit(kind(cluster_map=map_of(centroids))).add_llm("eve", X, errors[:, 0])
    relabelled = fit(kind(cluster_map=map_of(centroids[order]))).add_llm("eve", X, errors[:, 0])

    np.testing.assert_allclose(relabelled.predict_error(unseen), plain.predict_error(unseen), atol=1e-8)


def test_empty_cluster_gets_the_llms_mean() -> None:
    """A cluster without labels is not an error of 0: the LLM's overall mean stands in, here 2/3."""
    centroids = np.eye(6, dtype=np.float32)[:3]
    X = centroids[[0, 0, 1]]

    estimator = fit(UniRouteKMeans(cluster_map=map_of(centroids))).add_llm("eve", X, [1.0, 0.0, 1.0])

    np.testing.assert_allclose(estimator.predict_error(centroids)[:, 0], [1 / 2, 1, 2 / 3], atol=1e-8)


@pytest.mark.parametrize("n_known", [0, 1, 2])
@pytest.mark.parametrize("n_labels", [0, 1, 30])
def test_default_of_a_small_pool_is_the_shrunk_estimate(n_known: int, n_labels: int) -> None:
    """With two or fewer known LLMs ``default`` and ``multi-soft-shrunk`` agree in every bit."""
    X, errors = draw(n_labels, 1, seed=3)
    unseen, _ = draw(50, 1, seed=4)

    predicted = [
        fit(ESTIMATORS[name](0), n_known=n_known).add_llm("eve", X, errors[:, 0]).predict_error(unseen)
        for name in ("default", "multi-soft-shrunk")
    ]

    np.testing.assert_array_equal(predicted[0], predicted[1])


def test_default_differs_from_the_shrunk_estimate_once_there_is_a_pool() -> None:
    """With three known LLMs the pool has a say."""
    X, errors = draw(30, 1, seed=3)

    predicted = [
        fit(ESTIMATORS[name](0), n_known=3).add_llm("eve", X, errors[:, 0]).predict_error(X)
        for name in ("default", "multi-soft-shrunk")
    ]

    assert not np.array_equal(predicted[0], predicted[1])


def test_intervals_of_the_default_hold_its_rates() -> None:
    """An interval per cell, around the cell's rate, narrower with more labels."""
    X, errors = draw(200, 1, seed=3)
    estimator = fit(PoolPriorEstimator())
    assert isinstance(estimator, PoolPriorEstimator)

    few = estimator.estimate_intervals(X[:20], errors[:20, 0])
    many = estimator.estimate_intervals(X, errors[:, 0])

    rates = estimator.add_llm("eve", X, errors[:, 0]).learned_["eve"]
    assert rates.shape == many[0].shape == (155,)
    assert np.all((many[0] <= rates + 1e-8) & (rates <= many[1] + 1e-8))
    assert np.mean(many[1] - many[0]) < np.mean(few[1] - few[0])


def test_a_given_map_is_used_at_its_own_temperature() -> None:
    """The map of a deployment serves as it is: one label in a cell, and the weights carry its rate."""
    centroids = np.eye(6, dtype=np.float32)[:2]
    soft = map_of(centroids).with_temperature(math.log(3))
    X = centroids[[0, 0, 1, 1]]

    estimator = fit(ShrunkCells(cluster_map=soft)).add_llm("eve", X, [1.0, 1.0, 0.0, 0.0])

    # p = .5, SSB = 1, tau2 = .75/1, kappa = 2: rates .75 and .25; weights 3/4 and 1/4.
    np.testing.assert_allclose(estimator.predict_error(centroids[:1]), [[0.625]], atol=1e-6)


def test_shared_maps_are_those_that_a_fit_gives() -> None:
    """Sharing saves time only: the map equals ``fit_cluster_map``'s, at the temperature asked for."""
    X, _ = draw(60, 1, seed=6)
    fitted = fit_cluster_map(X, sizes=(3, 5), temperature=4.0, fingerprint=FINGERPRINT, seed=1)

    first = share_map(X, sizes=(3, 5), temperature=9.0, seed=1)
    again = share_map(X.copy(), sizes=(3, 5), temperature=4.0, seed=1)
    other = share_map(X, sizes=(3, 5), temperature=4.0, seed=2)

    np.testing.assert_array_equal(again.centroids, fitted.centroids)
    assert (first.temperature, again.temperature) == (9.0, 4.0)
    assert not np.array_equal(other.centroids, fitted.centroids)


def test_learned_encoders_find_what_a_constant_cannot() -> None:
    """On LLMs whose errors depend on the prompt, learned estimators beat the ZeroRouter's Brier score."""
    X, errors = draw(1000, 8, seed=7)
    unseen, outcomes = draw(1000, 8, seed=8)
    names = [f"known{llm}" for llm in range(6)]
    scores = {}
    for name in ("zero", "knn", "uniroute-learned", "pool-prior", "routoo", "irt", "contrastive"):
        estimator = ESTIMATORS[name](0).fit(X, errors[:, :6], names)
        estimator.add_llm("new6", X[:200], errors[:200, 6]).add_llm("new7", X[:200], errors[:200, 7])
        scores[name] = float(np.mean((estimator.predict_error(unseen) - outcomes[:, 6:]) ** 2))

    assert all(scores[name] < scores["zero"] for name in scores if name not in {"zero", "irt"})
    assert scores["routoo"] < 0.85 * scores["zero"]
