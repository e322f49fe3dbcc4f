"""LearnedMap, selection and temperature: what learning starts from, what it may not lose, what is chosen."""

import math

import numpy as np
import pytest

from routing.clusters import (
    ClusterMap,
    Training,
    fit_cluster_map,
    fit_learned_map,
    fit_temperature,
    select_map,
    select_size,
    select_temperature,
    soften_map,
)
from routing.clusters.learning import _gradient, log_loss
from routing.clusters.selection import CANDIDATE_TEMPERATURES
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError

DIMENSION, K, N_LLMS = 8, 5, 6
FINGERPRINT = Fingerprint(name="tests", dimension=DIMENSION, precision="f32", max_length=1, checksum="")


def unit_rows(n: int, rng: np.random.Generator) -> np.ndarray:
    """Random directions."""
    rows = rng.normal(size=(n, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cell_means(cluster_map: ClusterMap, X: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """UniRoute's Psi: mean error per cell of a map of one resolution."""
    one_hot = np.eye(sum(cluster_map.sizes))[cluster_map.cells(X)[:, 0]]
    return one_hot.T @ wrong / np.maximum(one_hot.sum(axis=0), 1)[:, None]


@pytest.fixture
def world() -> tuple[ClusterMap, np.ndarray, np.ndarray, np.ndarray]:
    """Prompts on which each LLM fails on its own side of a plane, and a map of them."""
    rng = np.random.default_rng(3)
    X = unit_rows(1200, rng)
    wrong = (X @ rng.normal(size=(DIMENSION, N_LLMS)) > 0).astype(float)
    cluster_map = fit_cluster_map(X, sizes=(K,), fingerprint=FINGERPRINT)
    return cluster_map, X, wrong, cell_means(cluster_map, X, wrong)


def test_start_is_the_softened_map() -> None:
    """Learning starts from the softmax of -|x - mu|^2 / tau, tau the mean square within clusters."""
    rng = np.random.default_rng(5)
    X = unit_rows(400, rng)
    cluster_map = fit_cluster_map(X, sizes=(K,), fingerprint=FINGERPRINT)
    squares = ((X[:, None, :] - cluster_map.centroids) ** 2).sum(axis=2)
    raised = np.exp(-squares / squares.min(axis=1).mean())

    start = soften_map(cluster_map, X)

    assert np.allclose(start.weights(X), raised / raised.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.array_equal(start.cells(X), cluster_map.cells(X))


def test_no_epochs_give_the_start(world: tuple[ClusterMap, np.ndarray, np.ndarray, np.ndarray]) -> None:
    """LearnedMap before its first step is the softened map, to the last bit."""
    cluster_map, X, wrong, rates = world
    rng = np.random.default_rng(0)

    learned = fit_learned_map(cluster_map, X, wrong, rates, rng=rng, training=Training(epochs=0))

    assert learned == soften_map(cluster_map, X)


def test_learning_lowers_the_loss_on_new_prompts(
    world: tuple[ClusterMap, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Where wrongness is linear in the embedding, learned weights predict fresh prompts better."""
    cluster_map, X, wrong, rates = world
    train, fresh = slice(0, 900), slice(900, None)

    learned = fit_learned_map(cluster_map, X[train], wrong[train], rates, rng=np.random.default_rng(0))
    start = soften_map(cluster_map, X[train])

    before = log_loss(start.weights(X[fresh]) @ rates, wrong[fresh])
    after = log_loss(learned.weights(X[fresh]) @ rates, wrong[fresh])
    assert after < before - 0.02


def test_learning_is_repeatable(world: tuple[ClusterMap, np.ndarray, np.ndarray, np.ndarray]) -> None:
    """The same generator gives the same map."""
    cluster_map, X, wrong, rates = world
    few = Training(epochs=2)

    one, two = (
        fit_learned_map(cluster_map, X, wrong, rates, rng=np.random.default_rng(9), training=few)
        for _ in range(2)
    )

    assert one == two


def test_gradient_is_the_slope_of_the_loss() -> None:
    """The analytic gradient agrees with differences of the loss, unknown outcomes left out."""
    rng = np.random.default_rng(1)
    theta, inputs = rng.normal(size=(K, DIMENSION + 1)), rng.normal(size=(30, DIMENSION + 1))
    wrong, psi = rng.integers(0, 2, size=(30, N_LLMS)).astype(float), rng.uniform(0.1, 0.9, (K, N_LLMS))
    wrong[::4, 2] = np.nan

    def loss(at: np.ndarray) -> float:
        raised = np.exp(inputs @ at.T)
        return log_loss(raised / raised.sum(axis=1, keepdims=True) @ psi, wrong)

    step = np.zeros_like(theta)
    step[2, 3] = 1e-5
    slope = (loss(theta + step) - loss(theta - step)) / 2e-5

    assert _gradient(theta, inputs, wrong, psi)[2, 3] == pytest.approx(slope, rel=1e-5)


def test_log_loss_by_hand() -> None:
    """-log .8 for a wrong answer expected at .8, -log .5 for a right one at .5; NaN is no outcome."""
    found = log_loss(np.array([[0.8, 0.5, 0.3]]), np.array([[1.0, 0.0, np.nan]]))

    assert found == pytest.approx((0.2231436 + 0.6931472) / 2, abs=1e-7)
    assert log_loss(np.ones((2, 1)), np.full((2, 1), np.nan)) == 0
    assert math.isfinite(log_loss(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])))


def test_single_prompt_gives_the_start() -> None:
    """With nothing to hold out there is nothing to learn."""
    X = unit_rows(1, np.random.default_rng(0))
    cluster_map = fit_cluster_map(X, sizes=(3,), fingerprint=FINGERPRINT)

    learned = fit_learned_map(
        cluster_map, X, np.ones((1, 2)), np.full((1, 2), 0.5), rng=np.random.default_rng(0)
    )

    assert learned.weights(X).tolist() == [[1.0]]


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_outcomes_outside_zero_and_one_are_refused(
    world: tuple[ClusterMap, np.ndarray, np.ndarray, np.ndarray], bad: float
) -> None:
    """Errors are in 0..1."""
    cluster_map, X, wrong, rates = world
    wrong = wrong.copy()
    wrong[7, 1] = bad

    with pytest.raises(InvalidInputError, match="wrong"):
        fit_learned_map(cluster_map, X, wrong, rates, rng=np.random.default_rng(0))


def test_select_keeps_the_first_of_the_best() -> None:
    """Of equal scores the first wins: list the simplest first."""
    X = unit_rows(50, np.random.default_rng(0))
    maps = [fit_cluster_map(X, sizes=(k,), fingerprint=FINGERPRINT) for k in (1, 2, 3)]
    worth = {1: 0.2, 2: 0.7, 3: 0.7}

    chosen = select_map(maps, lambda tried: worth[tried.sizes[0]])

    assert chosen.best.sizes == (2,)
    assert chosen.scores == (0.2, 0.7, 0.7)


def test_select_refuses_no_map_and_no_number() -> None:
    """Neither an empty list nor a score that is NaN has a best."""
    X = unit_rows(5, np.random.default_rng(0))
    cluster_map = fit_cluster_map(X, sizes=(2,), fingerprint=FINGERPRINT)

    with pytest.raises(InvalidInputError, match="at least one map"):
        select_map([], lambda _: 0.0)
    with pytest.raises(InvalidInputError, match="NaN"):
        select_map([cluster_map], lambda _: math.nan)


def test_select_size_tries_each_number_of_clusters_once() -> None:
    """Sizes above the number of distinct prompts are one and the same map."""
    X = unit_rows(6, np.random.default_rng(0))

    chosen = select_size(
        X, lambda tried: -abs(tried.sizes[0] - 4), fingerprint=FINGERPRINT, sizes=(80, 40, 4, 1)
    )

    assert [tried.sizes[0] for tried in chosen.tried] == [1, 4, 6]
    assert chosen.best.sizes == (4,)


def test_select_temperature_prefers_the_softer_of_equals() -> None:
    """A score that does not care about the temperature gets the lowest."""
    X = unit_rows(20, np.random.default_rng(0))
    cluster_map = fit_cluster_map(X, sizes=(4,), fingerprint=FINGERPRINT)

    chosen = select_temperature(cluster_map, lambda _: 1.0)

    assert chosen.best.temperature == CANDIDATE_TEMPERATURES[0]


def test_fitted_temperature_is_the_one_that_made_the_outcomes() -> None:
    """Outcomes drawn from a map of temperature 8 are likeliest under 8 among 2, 8, 32 and the hard map."""
    rng = np.random.default_rng(2)
    X = unit_rows(6000, rng)
    cluster_map = fit_cluster_map(X, sizes=(K,), temperature=8.0, fingerprint=FINGERPRINT)
    rates = rng.uniform(0.02, 0.98, (K, 40))
    wrong = (rng.random((6000, 40)) < cluster_map.weights(X) @ rates).astype(float)

    fitted = fit_temperature(
        cluster_map.with_temperature(1.0), X, wrong, rates, temperatures=(math.inf, 2.0, 8.0, 32.0)
    )

    assert fitted.temperature == 8.0


def test_temperature_without_outcomes_is_the_default() -> None:
    """Nothing known, nothing fitted."""
    X = unit_rows(20, np.random.default_rng(0))
    cluster_map = fit_cluster_map(X, sizes=(4,), temperature=3.0, fingerprint=FINGERPRINT)

    fitted = fit_temperature(cluster_map, X, np.full((20, 2), np.nan), np.full((4, 2), 0.5))

    assert fitted.temperature == 16.0
