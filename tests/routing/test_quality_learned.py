"""The learned estimators: their losses, their onboarding, and that they find what was put in."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad
from scipy.special import expit

from routing.quality.contrastive import Contrastive
from routing.quality.item_response import ItemResponse
from routing.quality.latent import LatentEstimator
from routing.quality.logistic import VectorPrior, logistic_loss
from routing.quality.projection import Projection
from routing.quality.routoo import Routoo

Array = NDArray[np.float64]


def draw_rows(n: int, *, seed: int) -> Array:
    """Give unit rows in 5 dimensions."""
    rows = np.random.default_rng(seed).normal(size=(n, 5))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_logistic_loss_by_hand() -> None:
    """At logit 0 every outcome costs log 2; at log 3 a right one costs log 4/3, a wrong one log 4."""
    value, gradient = logistic_loss(np.array([0.0, np.log(3), np.log(3)]), np.array([1.0, 1.0, 0.0]))

    assert value == pytest.approx((np.log(2) + np.log(4 / 3) + np.log(4)) / 3)
    np.testing.assert_allclose(gradient, [-0.5 / 3, -0.25 / 3, 0.75 / 3])


def test_logistic_loss_has_no_overflow() -> None:
    """Logits of a thousand cost a thousand where they are wrong, nothing where they are right."""
    value, gradient = logistic_loss(np.array([1000.0, -1000.0]), np.array([0.0, 0.0]))

    assert value == pytest.approx(500)
    np.testing.assert_allclose(gradient, [0.5, 0.0])


def test_logistic_gradient_is_that_of_the_loss() -> None:
    """Finite differences agree, for graded outcomes too."""
    right = np.array([0.0, 1.0, 0.3, 0.8])

    error = check_grad(
        lambda logits: logistic_loss(logits, right)[0],
        lambda logits: logistic_loss(logits, right)[1],
        np.array([0.3, -1.0, 2.0, 0.1]),
    )

    assert error < 1e-6


def test_prior_over_vectors_by_hand() -> None:
    """Two vectors, +1 and -1, in one dimension: variance 1 times (1 + 6/2) (2/1), plus .101 for the level."""
    prior = VectorPrior.fit(np.array([[1.0], [-1.0]]))

    np.testing.assert_allclose(prior.mean, [0.0])
    np.testing.assert_allclose(prior.precision, [[1 / 8.101]])


def test_a_new_vector_minimises_loss_and_distance_from_the_prior() -> None:
    """At the minimum the pull of the labels equals the pull of the prior: X'(right - s) = P (v - m)."""
    rng = np.random.default_rng(0)
    features, offsets = rng.normal(size=(50, 3)), rng.normal(size=50)
    right = (rng.random(50) < 0.4).astype(float)
    prior = VectorPrior(mean=np.array([0.1, 0.0, -0.2]), precision=np.diag([1.0, 2.0, 3.0]))

    vector = prior.fit_vector(features, offsets, right)

    labels_pull = features.T @ (right - expit(offsets + features @ vector))
    np.testing.assert_allclose(labels_pull, prior.precision @ (vector - prior.mean), atol=1e-2)


def test_projection_keeps_the_widest_axes() -> None:
    """Coordinates have mean 0, mean variance 1, and the axis of most variance comes first."""
    rows = (np.random.default_rng(0).normal(size=(500, 4)) * [1.0, 5.0, 2.0, 0.1]).astype(np.float32)

    coordinates = Projection.fit(rows, dimensions=2).apply(rows)

    assert coordinates.shape == (500, 2)
    np.testing.assert_allclose(coordinates.mean(axis=0), 0, atol=1e-6)
    assert coordinates.var(axis=0).mean() == pytest.approx(1)
    assert abs(np.corrcoef(coordinates[:, 0], rows[:, 1])[0, 1]) > 0.99


def test_item_response_recovers_difficulty_and_ability() -> None:
    """Data drawn from a 2PL model: predictions correlate with the true probabilities above .95."""
    X, unseen = draw_rows(2000, seed=1), draw_rows(300, seed=2)
    abilities = np.linspace(-1.5, 1.5, 8)
    difficulty = np.array([2.0, -1.0, 0.5, 0.0, 0.0])
    right = np.random.default_rng(3).random((2000, 8)) < expit(1.5 * (abilities - (X @ difficulty)[:, None]))
    errors = 1.0 - right
    estimator = ItemResponse().fit(X, errors[:, 1:], [f"m{llm}" for llm in range(1, 8)])

    predicted = estimator.add_llm("m0", X[:200], errors[:200, 0]).predict_error(unseen)[:, 0]

    true = 1 - expit(1.5 * (abilities[0] - unseen @ difficulty))
    assert np.corrcoef(predicted, true)[0, 1] > 0.95
    assert np.abs(predicted - true).mean() < 0.08


@pytest.mark.parametrize("estimator", [Routoo(), Contrastive()])
def test_an_llm_of_another_bent_is_told_apart(estimator: LatentEstimator) -> None:
    """Experts of either side of the first axis: a new one's 60 labels tell which side it is good at."""
    X, unseen = draw_rows(1500, seed=4), draw_rows(300, seed=5)
    rng = np.random.default_rng(6)
    bent = np.array([1.0, -1.0, 0.8, -0.8, 1.2, -1.2])
    errors = (rng.random((1500, 6)) < expit(-4 * X[:, :1] * bent)).astype(float)
    estimator.fit(X, errors, [f"m{llm}" for llm in range(6)])
    left = (rng.random(60) < expit(4 * X[:60, 0])).astype(float)

    predicted = estimator.add_llm("left", X[:60], left).predict_error(unseen)[:, 0]

    assert predicted[unseen[:, 0] < -0.4].mean() < 0.35
    assert predicted[unseen[:, 0] > 0.4].mean() > 0.65


def test_onboarding_leaves_the_encoder_frozen() -> None:
    """What ``fit`` learned is not touched by new labels."""
    X = draw_rows(300, seed=7)
    errors = (np.random.default_rng(8).random((300, 4)) < 0.4).astype(float)
    estimator = Routoo().fit(X, errors, ["a", "b", "c", "d"])
    before = [part.copy() for part in estimator.weights_]

    estimator.add_llm("e", X[:50], errors[:50, 0])

    for part, old in zip(estimator.weights_, before, strict=True):
        np.testing.assert_array_equal(part, old)


def test_routoo_gradient_is_that_of_its_loss() -> None:
    """Finite differences agree for every parameter."""
    from routing.quality import routoo  # noqa: PLC0415 - its private parts, for this test alone

    rng = np.random.default_rng(9)
    coordinates, right = rng.normal(size=(20, 4)), rng.random((20, 3))
    parts = [rng.normal(size=shape) for shape in ((4, 2), (2,), (2,), (1,), (3, 3))]
    shapes = [part.shape for part in parts]
    flat = np.concatenate([part.ravel() for part in parts])

    error = check_grad(
        lambda v: routoo._loss(routoo._unpack(v, shapes), coordinates, right)[0],
        lambda v: routoo._pack(routoo._loss(routoo._unpack(v, shapes), coordinates, right)[1]),
        flat,
    )

    assert error < 1e-5
