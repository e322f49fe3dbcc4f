"""Forgetting counts, by hand."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.quality.counts import ErrorCounts
from routing.quality.forgetting import forget_counts
from routing.quality.shrinkage import LevelPrior, shrink_error_rates

COUNTS = ErrorCounts(errors=np.array([[4.0, 1.0], [0.0, 3.0]]), labels=np.array([[8.0, 2.0], [4.0, 4.0]]))


def test_new_labels_age_old_ones() -> None:
    """Two new labels at a retention of 1/2 leave a quarter of the first LLM's counts, all of the other's."""
    kept = forget_counts(COUNTS, [2, 0], retention=0.5)

    np.testing.assert_array_equal(kept.errors, [[1.0, 1.0], [0.0, 3.0]])
    np.testing.assert_array_equal(kept.labels, [[2.0, 2.0], [1.0, 4.0]])


def test_two_batches_forget_like_one() -> None:
    """Ages add up: 3 labels and then 4 forget what 7 forget."""
    twice = forget_counts(forget_counts(COUNTS, [3, 1]), [4, 0])

    np.testing.assert_allclose(twice.labels, forget_counts(COUNTS, [7, 1]).labels, rtol=1e-14)


def test_rates_move_towards_the_prior() -> None:
    """A forgotten LLM is expected to be like any other, .3, and not to be without error."""
    kept = forget_counts(COUNTS, [10_000, 10_000])

    rates = shrink_error_rates(
        kept.errors, kept.labels, sizes=(2,), level=LevelPrior(mean=0.3, variance=0.02)
    )

    np.testing.assert_allclose(rates, 0.3, atol=1e-9)


@pytest.mark.parametrize("feedbacks", [[1], [1, -1], [1, np.nan], 3])
def test_impossible_ages_are_refused(feedbacks: object) -> None:
    """One number per LLM, none negative or unknown."""
    with pytest.raises(InvalidInputError):
        forget_counts(COUNTS, feedbacks)  # type: ignore[arg-type]


@pytest.mark.parametrize("retention", [0.0, 1.1, np.nan])
def test_impossible_retentions_are_refused(retention: float) -> None:
    """Retention lies in (0, 1]."""
    with pytest.raises(InvalidInputError):
        forget_counts(COUNTS, [1, 1], retention=retention)
