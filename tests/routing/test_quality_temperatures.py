"""The temperature of a soft map: learned where outcomes speak, kept where they do not."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.quality.pooled import PoolPriorEstimator
from routing.quality.registry import ESTIMATORS
from routing.quality.temperatures import fit_soft_temperature

FINGERPRINT = Fingerprint(name="tests", dimension=8, precision="f32", max_length=1, checksum="")
CELLS, LLMS = 6, 12


def unit_rows(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Give ``n`` directions drawn evenly."""
    rows = rng.standard_normal((n, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def draw(n: int, *, temperature: float, seed: int = 0) -> tuple[ClusterMap, NDArray[np.float32], NDArray]:
    """Give a map of temperature 16, prompts, and errors drawn from the same map at ``temperature``."""
    rng = np.random.default_rng(seed)
    cluster_map = ClusterMap(
        centroids=unit_rows(CELLS, rng), sizes=(CELLS,), temperature=16.0, fingerprint=FINGERPRINT
    )
    X = unit_rows(n, rng)
    rates = rng.uniform(0.02, 0.98, (CELLS, LLMS))
    chances = cluster_map.with_temperature(temperature).weights(X) @ rates
    return cluster_map, X, (rng.random(chances.shape) < chances).astype(np.float64)


@pytest.mark.parametrize(("temperature", "least", "most"), [(4.0, 0.0, 12.0), (48.0, 48.0, math.inf)])
def test_many_outcomes_move_the_temperature(temperature: float, least: float, most: float) -> None:
    """Outcomes drawn much softer than 16 soften the map, sharper ones sharpen it; the cells stay.

    Rates counted in hard cells are themselves smoothed where the truth is soft, so what foretells best is
    sharper than what drew the outcomes.
    """
    cluster_map, X, errors = draw(4_000, temperature=temperature)

    fitted = fit_soft_temperature(cluster_map, X, errors)

    assert least <= fitted.temperature <= most
    np.testing.assert_array_equal(fitted.centroids, cluster_map.centroids)


def test_outcomes_without_clusters_keep_it() -> None:
    """Where every LLM does as well everywhere, no temperature foretells more than another."""
    cluster_map, X, _ = draw(200, temperature=16.0)

    assert fit_soft_temperature(cluster_map, X, np.full((200, 3), 0.25)) == cluster_map


def test_the_order_of_llms_makes_no_difference() -> None:
    """Nor does a second look."""
    cluster_map, X, errors = draw(500, temperature=6.0)

    fitted = fit_soft_temperature(cluster_map, X, errors)

    assert fit_soft_temperature(cluster_map, X, errors[:, ::-1]) == fitted


def test_nothing_known_changes_nothing() -> None:
    """No LLM, nine prompts, and a hard map are all left alone."""
    cluster_map, X, errors = draw(200, temperature=4.0)
    hard = cluster_map.with_temperature(math.inf)

    assert fit_soft_temperature(cluster_map, X, errors[:, :0]) == cluster_map
    assert fit_soft_temperature(cluster_map, X[:9], errors[:9]) == cluster_map
    assert fit_soft_temperature(hard, X, errors) == hard


def test_the_default_fits_its_temperature_and_pool_prior_has_the_published_one() -> None:
    """Also where a caller's own temperature or own map is used as it is."""
    cluster_map, X, errors = draw(1_000, temperature=48.0)
    names = [f"llm-{column}" for column in range(LLMS)]

    def temperature_of(estimator: PoolPriorEstimator) -> float:
        return estimator.fit(X, errors, names).map_.temperature

    published, default = ESTIMATORS["pool-prior"](0), ESTIMATORS["default"](0)
    assert isinstance(published, PoolPriorEstimator)
    assert isinstance(default, PoolPriorEstimator)
    assert temperature_of(published) == 16.0
    assert temperature_of(default) > 16.0
    assert temperature_of(PoolPriorEstimator(temperature=5.0)) == 5.0
    assert temperature_of(PoolPriorEstimator(cluster_map=cluster_map)) == 16.0
