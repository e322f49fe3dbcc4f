"""One suite that every estimator passes: what the interface promises, whatever stands behind it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from routing.errors import InvalidInputError, UnknownLLMError
from routing.quality.estimators import Estimator
from routing.quality.registry import ESTIMATORS

Array = NDArray[np.float64]
KNOWN = ("ada", "bob", "cyd", "dee")

pytestmark = pytest.mark.parametrize("name", sorted(ESTIMATORS))


def draw_prompts(n: int, *, seed: int) -> Array:
    """Give ``n`` unit rows in 6 dimensions around three directions."""
    rng = np.random.default_rng(seed)
    rows = np.eye(6)[rng.integers(0, 3, n)] + rng.normal(scale=0.3, size=(n, 6))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32).astype(float)


def draw_errors(X: Array, n_llms: int, *, seed: int) -> Array:
    """Give errors of 0 or 1: each LLM has a weakness of its own."""
    rng = np.random.default_rng(seed)
    hardness = 1 / (1 + np.exp(-X @ rng.normal(scale=2.0, size=(6, n_llms))))
    return (rng.random(hardness.shape) < hardness).astype(float)


def fit(name: str, *, seed: int = 0) -> Estimator:
    """Fit on four known LLMs' errors on 120 prompts."""
    X = draw_prompts(120, seed=1)
    return ESTIMATORS[name](seed).fit(X, draw_errors(X, 4, seed=2), KNOWN)


LABELLED = draw_prompts(40, seed=3)
LABELS = draw_errors(LABELLED, 3, seed=4)
UNSEEN = draw_prompts(25, seed=5)


def test_predictions_have_a_row_per_prompt_and_a_column_per_llm_in_name_order(name: str) -> None:
    """Shape (n, added LLMs), float64, in [0, 1], columns in the order of ``llms_``, which is by name."""
    both = fit(name).add_llm("zoe", LABELLED, LABELS[:, 0]).add_llm("abe", LABELLED, LABELS[:, 1])
    alone = fit(name).add_llm("zoe", LABELLED, LABELS[:, 0])

    predicted = both.predict_error(UNSEEN)

    assert both.llms_ == ("abe", "zoe")
    assert predicted.shape == (25, 2)
    assert predicted.dtype == np.float64
    assert np.all((predicted >= 0) & (predicted <= 1))
    np.testing.assert_array_equal(predicted[:, 1], alone.predict_error(UNSEEN)[:, 0])


def test_nothing_added_predicts_no_column(name: str) -> None:
    """Before any LLM is added there are no columns, and no prompts give no rows."""
    estimator = fit(name)

    assert estimator.predict_error(UNSEEN).shape == (25, 0)
    assert estimator.add_llm("eve", LABELLED, LABELS[:, 0]).predict_error(UNSEEN[:0]).shape == (0, 1)


def test_equal_seeds_give_equal_bits(name: str) -> None:
    """Two estimators of one seed and one input agree in every bit."""
    first, second = (fit(name, seed=7).add_llm("eve", LABELLED, LABELS[:, 0]) for _ in range(2))

    np.testing.assert_array_equal(first.predict_error(UNSEEN), second.predict_error(UNSEEN))


def test_adding_and_removing_an_llm_moves_no_other(name: str) -> None:
    """Every other LLM's predictions stay bit-identical, however many stand beside it."""
    estimator = fit(name).add_llm("eve", LABELLED, LABELS[:, 0])
    alone = estimator.predict_error(UNSEEN)
    for index in range(9):
        estimator.add_llm(f"other{index}", LABELLED[index:], LABELS[index:, index % 3])
    crowded = estimator.predict_error(UNSEEN)[:, :1]
    for index in range(9):
        estimator.remove_llm(f"other{index}")

    np.testing.assert_array_equal(crowded, alone)
    np.testing.assert_array_equal(estimator.predict_error(UNSEEN), alone)


def test_order_of_adding_makes_no_difference(name: str) -> None:
    """The same LLMs added in another order give the same bits in the same columns."""
    names = ("eve", "fay", "gus")
    forwards, backwards = fit(name), fit(name)
    for index in range(3):
        forwards.add_llm(names[index], LABELLED, LABELS[:, index])
        backwards.add_llm(names[2 - index], LABELLED, LABELS[:, 2 - index])

    assert forwards.llms_ == backwards.llms_
    np.testing.assert_array_equal(forwards.predict_error(UNSEEN), backwards.predict_error(UNSEEN))


def test_order_of_the_known_llms_makes_no_difference(name: str) -> None:
    """The known LLMs' columns may come in any order."""
    X = draw_prompts(120, seed=1)
    errors = draw_errors(X, 4, seed=2)
    swapped = ESTIMATORS[name](0).fit(X, errors[:, ::-1], KNOWN[::-1])

    expected = fit(name).add_llm("eve", LABELLED, LABELS[:, 0]).predict_error(UNSEEN)

    np.testing.assert_array_equal(
        swapped.add_llm("eve", LABELLED, LABELS[:, 0]).predict_error(UNSEEN), expected
    )


def test_without_labels_new_llms_tie_exactly(name: str) -> None:
    """Nothing is known of either, so both get the same bits and cost decides."""
    estimator = fit(name).add_llm("eve", LABELLED[:0], []).add_llm("fay", LABELLED[:0], [])

    predicted = estimator.predict_error(UNSEEN)

    np.testing.assert_array_equal(predicted[:, 0], predicted[:, 1])
    assert np.all((predicted > 0) & (predicted < 1))


def test_one_label_is_enough_to_predict(name: str) -> None:
    """One label gives finite errors, and on its own prompt a wrong answer no less error than a right one."""
    prompts = np.concatenate([LABELLED[:1], UNSEEN])
    right = fit(name).add_llm("eve", LABELLED[:1], [0.0]).predict_error(prompts)
    wrong = fit(name).add_llm("eve", LABELLED[:1], [1.0]).predict_error(prompts)

    assert np.all(np.isfinite(right) & np.isfinite(wrong))
    assert right[0] <= wrong[0]


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_constant_llm_is_learned(name: str, error: float) -> None:
    """An LLM that is always right, or always wrong, over 40 labels is predicted to be near that."""
    predicted = fit(name).add_llm("eve", LABELLED, np.full(40, error)).predict_error(UNSEEN)

    assert np.all((predicted >= 0) & (predicted <= 1))
    assert abs(predicted.mean() - error) < 0.2


def test_graded_errors_are_taken(name: str) -> None:
    """Errors between 0 and 1 count as they are: an LLM of error .3 everywhere is predicted near .3."""
    predicted = fit(name).add_llm("eve", LABELLED, np.full(40, 0.3)).predict_error(UNSEEN)

    assert abs(predicted.mean() - 0.3) < 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_errors_outside_their_range_are_refused(name: str, bad: float) -> None:
    """NaN, infinity and numbers outside [0, 1] are named as the fault, in ``fit`` and in ``add_llm``."""
    X = draw_prompts(120, seed=1)
    known = draw_errors(X, 4, seed=2)
    known[7, 1] = bad

    with pytest.raises(InvalidInputError, match="errors"):
        ESTIMATORS[name](0).fit(X, known, KNOWN)
    with pytest.raises(InvalidInputError, match="errors"):
        fit(name).add_llm("eve", LABELLED, np.where(np.arange(40) == 3, bad, LABELS[:, 0]))


def test_embeddings_that_are_not_numbers_or_of_another_length_are_refused(name: str) -> None:
    """NaN in an embedding, or another dimension than was fitted, is an error and no prediction."""
    estimator = fit(name).add_llm("eve", LABELLED, LABELS[:, 0])
    broken = UNSEEN.copy()
    broken[2, 3] = np.nan

    with pytest.raises(InvalidInputError):
        estimator.predict_error(broken)
    with pytest.raises(InvalidInputError):
        estimator.predict_error(UNSEEN[:, :5])
    with pytest.raises(InvalidInputError):
        estimator.add_llm("fay", broken, LABELS[:25, 0])
    with pytest.raises(InvalidInputError):
        ESTIMATORS[name](0).fit(broken, draw_errors(UNSEEN, 4, seed=2), KNOWN)


def test_names_are_guarded(name: str) -> None:
    """A name is added once, removed only if there, and known LLMs have names of their own."""
    estimator = fit(name).add_llm("eve", LABELLED, LABELS[:, 0])
    X = draw_prompts(120, seed=1)

    with pytest.raises(InvalidInputError, match="eve"):
        estimator.add_llm("eve", LABELLED, LABELS[:, 0])
    with pytest.raises(UnknownLLMError, match="fay"):
        estimator.remove_llm("fay")
    with pytest.raises(InvalidInputError, match="differ"):
        ESTIMATORS[name](0).fit(X, draw_errors(X, 2, seed=2), ("ada", "ada"))


def test_before_fit_nothing_is_predicted(name: str) -> None:
    """Using an estimator before ``fit`` raises scikit-learn's own error."""
    with pytest.raises(NotFittedError):
        ESTIMATORS[name](0).predict_error(UNSEEN)
    with pytest.raises(NotFittedError):
        ESTIMATORS[name](0).add_llm("eve", LABELLED, LABELS[:, 0])


def test_float32_and_float64_embeddings_agree(name: str) -> None:
    """The same vectors in either precision give the same bits."""
    estimator = fit(name).add_llm("eve", LABELLED.astype(np.float32), LABELS[:, 0].astype(np.float32))
    double = fit(name).add_llm("eve", LABELLED, LABELS[:, 0])

    np.testing.assert_array_equal(
        estimator.predict_error(UNSEEN.astype(np.float32)), double.predict_error(UNSEEN)
    )


def test_clones_have_equal_parameters_and_no_memory(name: str) -> None:
    """``clone`` copies hyper-parameters only; the copy, fitted alike, predicts alike."""
    original = fit(name, seed=3).add_llm("eve", LABELLED, LABELS[:, 0])
    copy = clone(original)
    X = draw_prompts(120, seed=1)

    assert copy.get_params() == original.get_params()
    with pytest.raises(NotFittedError):
        copy.predict_error(UNSEEN)
    copy.fit(X, draw_errors(X, 4, seed=2), KNOWN).add_llm("eve", LABELLED, LABELS[:, 0])
    np.testing.assert_array_equal(copy.predict_error(UNSEEN), original.predict_error(UNSEEN))


def test_refitting_forgets_added_llms(name: str) -> None:
    """``fit`` starts anew."""
    estimator = fit(name).add_llm("eve", LABELLED, LABELS[:, 0])
    X = draw_prompts(120, seed=1)

    estimator.fit(X, draw_errors(X, 4, seed=2), KNOWN)

    assert estimator.llms_ == ()


def test_inputs_are_left_alone(name: str) -> None:
    """Arrays that were handed in are neither changed nor kept: changing them afterwards changes nothing."""
    X, errors = LABELLED.astype(np.float32), LABELS[:, 0].copy()
    estimator = fit(name).add_llm("eve", X, errors)
    before = estimator.predict_error(UNSEEN)
    np.testing.assert_array_equal(errors, LABELS[:, 0])

    X[:], errors[:] = 0.0, 1.0

    np.testing.assert_array_equal(estimator.predict_error(UNSEEN), before)


@pytest.mark.parametrize("n_known", [0, 1, 2, 3])
def test_few_known_llms_are_enough(name: str, n_known: int) -> None:
    """With no, one or a few known LLMs every estimator still learns a new one from its labels."""
    X = draw_prompts(60, seed=1)
    estimator = ESTIMATORS[name](0).fit(X, draw_errors(X, n_known, seed=2), KNOWN[:n_known])

    predicted = estimator.add_llm("eve", LABELLED, np.ones(40)).predict_error(UNSEEN)

    assert np.all((predicted >= 0) & (predicted <= 1))
    assert predicted.mean() > 0.6


@pytest.mark.parametrize("n_prompts", [1, 2, 3])
def test_more_clusters_than_prompts(name: str, n_prompts: int) -> None:
    """One, two or three training prompts are enough to fit; there are never more cells than prompts."""
    X = draw_prompts(3, seed=1)[:n_prompts]
    estimator = ESTIMATORS[name](0).fit(X, draw_errors(X, 4, seed=2), KNOWN)

    predicted = estimator.add_llm("eve", LABELLED, LABELS[:, 0]).predict_error(UNSEEN)

    assert np.all(np.isfinite(predicted) & (predicted >= 0) & (predicted <= 1))


def test_equal_prompts_make_one_cluster(name: str) -> None:
    """Forty copies of one training prompt leave one cell, in which the LLM's labels decide."""
    X = np.repeat(draw_prompts(1, seed=1), 40, axis=0)
    estimator = ESTIMATORS[name](0).fit(X, draw_errors(X, 4, seed=2), KNOWN)

    predicted = estimator.add_llm("eve", X, np.arange(40) % 2).predict_error(X[:3])

    np.testing.assert_allclose(predicted, 0.5, atol=0.15)
