"""Shrinkage, worked by hand."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.quality.shrinkage import LevelPrior, fit_level_prior, shrink_error_rates


def column(*values: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Give one LLM's counts."""
    return np.array(values)[:, None]


def test_strength_is_estimated_by_moments() -> None:
    """Cells of 50 labels with 20 and 30 errors are pulled to .5 by 46/3 pseudo-labels.

    p = .5, SSB = 2 * 50 * .1^2 = 1, tau2 = (1 - .25) / (100 - 50 - 1) = .75/49, kappa = .25/tau2 - 1 = 46/3;
    (20 + 23/3) / (50 + 46/3) = 83/196.
    """
    rates = shrink_error_rates(column(20, 30), column(50, 50), sizes=(2,))

    np.testing.assert_allclose(rates[:, 0], [83 / 196, 113 / 196], rtol=1e-14)


def test_strength_is_at_least_two() -> None:
    """Cells that differ starkly keep their rates but for two pseudo-labels: (1 + 2/2) / 12 and (9 + 1) / 12.

    p = .5, SSB = 3.2, tau2 = 2.95/9 = .328, above p (1 - p), so kappa would be negative.
    """
    rates = shrink_error_rates(column(1, 9), column(10, 10), sizes=(2,))

    np.testing.assert_allclose(rates[:, 0], [1 / 6, 5 / 6], rtol=1e-14)


def test_strength_is_at_most_two_hundred() -> None:
    """Cells that differ less than by chance get 200 pseudo-labels: (6 + 200 * .55) / 210 with p = 11/20."""
    rates = shrink_error_rates(column(6, 5), column(10, 10), sizes=(2,))

    np.testing.assert_allclose(rates[:, 0], [116 / 210, 115 / 210], rtol=1e-14)


def test_too_few_labels_for_an_estimate_shrink_fully() -> None:
    """Where N - sum n^2/N - (K-1) <= 0 the spread is taken as none: kappa = 200.

    n = (2, 1, 0): 3 - 5/3 - 2 < 0; p = 1/3, so (1 + 200/3) / 202, (200/3) / 201 and 1/3.
    """
    rates = shrink_error_rates(column(1, 0, 0), column(2, 1, 0), sizes=(3,))

    np.testing.assert_allclose(rates[:, 0], [203 / 606, 200 / 603, 1 / 3], rtol=1e-14)


def test_resolutions_are_shrunk_one_by_one() -> None:
    """A stacked map gives what its resolutions give alone."""
    errors, labels = column(20, 30, 1, 9, 40), column(50, 50, 10, 10, 80)

    stacked = shrink_error_rates(errors, labels, sizes=(2, 2, 1))

    for cells in (slice(0, 2), slice(2, 4), slice(4, 5)):
        alone = shrink_error_rates(errors[cells], labels[cells], sizes=(cells.stop - cells.start,))
        np.testing.assert_array_equal(stacked[cells], alone)


def test_given_strength_is_used() -> None:
    """Strength 0 keeps raw means (an empty cell still gets p); strength 10 adds ten labels of rate p = .5."""
    errors, labels = column(1, 4, 0), column(5, 5, 0)

    np.testing.assert_allclose(
        shrink_error_rates(errors, labels, sizes=(3,), strength=0)[:, 0], [0.2, 0.8, 0.5], rtol=1e-14
    )
    np.testing.assert_allclose(
        shrink_error_rates(errors, labels, sizes=(3,), strength=10)[:, 0], [0.4, 0.6, 0.5], rtol=1e-14
    )


def test_an_llm_without_labels_gets_one_half_or_its_prior_level() -> None:
    """Never 0: .5 where nothing is known, the prior's mean where the pool's level is."""
    nothing = np.zeros((2, 2))

    np.testing.assert_array_equal(shrink_error_rates(nothing, nothing, sizes=(2,)), np.full((2, 2), 0.5))
    level = LevelPrior(mean=0.3, variance=0.02)
    np.testing.assert_array_equal(
        shrink_error_rates(nothing, nothing, sizes=(2,), level=level), np.full((2, 2), 0.3)
    )


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_constant_llm_keeps_its_rate(error: float) -> None:
    """Always right is 0 in every cell, always wrong 1, the unlabelled cell included."""
    rates = shrink_error_rates(column(3 * error, 5 * error, 0), column(3, 5, 0), sizes=(3,))

    np.testing.assert_array_equal(rates[:, 0], [error] * 3)


def test_level_prior_pulls_the_overall_rate() -> None:
    """k0 = .4 * .6 / .02 = 12 pseudo-labels of rate .4: (6 + 4.8) / (8 + 12) = .54."""
    level = LevelPrior(mean=0.4, variance=0.02)

    assert level.rate(6, 8) == pytest.approx(0.54, rel=1e-14)
    assert level.rate(0, 0) == 0.4


def test_own_evidence_of_pool_prior() -> None:
    """With a level of .2 and variance .0016 (100 pseudo-labels), p = (50 + 20) / 200 = .35 and q = .2275.

    SSB = 50 * .05^2 + 50 * .25^2 = 3.25, tau2 = 3.0225/49, kappa = .2275 * 49 / 3.0225 - 1 = 2.688172.
    """
    level = LevelPrior(mean=0.2, variance=0.0016)

    rates = shrink_error_rates(column(20, 30), column(50, 50), sizes=(2,), level=level)

    kappa = 0.2275 * 49 / 3.0225 - 1
    expected = [(20 + 0.35 * kappa) / (50 + kappa), (30 + 0.35 * kappa) / (50 + kappa)]
    np.testing.assert_allclose(rates[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(rates[:, 0], [0.397449, 0.587245], atol=1e-6)


def test_less_than_two_labels_tell_of_no_difference_between_cells() -> None:
    """One label, or 1.9 of weight, moves the level alone: k0 = 12, (1 + 4.8) / (1 + 12)."""
    level = LevelPrior(mean=0.4, variance=0.02)

    rates = shrink_error_rates(column(1, 0), column(1, 0), sizes=(2,), level=level)

    np.testing.assert_allclose(rates[:, 0], [5.8 / 13] * 2, rtol=1e-14)


def test_a_column_does_not_depend_on_its_neighbours() -> None:
    """Other LLMs' counts change not one bit of an LLM's rates."""
    rng = np.random.default_rng(0)
    labels = rng.random((155, 40)) * 9
    errors = labels * rng.random((155, 40))
    sizes = (5, 10, 20, 40, 80)

    together = shrink_error_rates(errors, labels, sizes=sizes)

    for llm in range(40):
        alone = shrink_error_rates(errors[:, llm : llm + 1], labels[:, llm : llm + 1], sizes=sizes)
        np.testing.assert_array_equal(together[:, llm], alone[:, 0])


def test_level_prior_of_few_known_llms() -> None:
    """None: .5 and .08. One of error .2: (.2 + .5) / 2 and .05. Two of .2 and .6: .4 and .04 * 2.5."""
    assert fit_level_prior(np.empty((10, 0))) == LevelPrior(mean=0.5, variance=0.08)
    one = fit_level_prior(np.array([[1.0], [0], [0], [0], [0]]))
    assert (one.mean, one.variance) == (pytest.approx(0.35), 0.05)
    two = fit_level_prior(np.array([[1.0, 1], [0, 1], [0, 1], [0, 0], [0, 0]]))
    assert (two.mean, two.variance) == (pytest.approx(0.4), pytest.approx(0.1))


def test_level_variance_has_a_floor() -> None:
    """Known LLMs of one level leave a variance of .005."""
    assert fit_level_prior(np.tile([[1.0], [0.0]], (1, 5))).variance == 0.005


@pytest.mark.parametrize(
    ("errors", "labels"),
    [
        (column(1, 2), column(1, 1)),
        (column(-1, 0), column(1, 1)),
        (column(np.nan, 0), column(1, 1)),
        (column(0, 0), column(1, np.inf)),
        (column(0, 0), column(1, -1)),
        (column(0, 0, 0), column(1, 1, 1)),
        (column(0, 0), column(1, 1, 1)),
    ],
)
def test_impossible_counts_are_refused(
    errors: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    labels: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> None:
    """More errors than labels, negative or unknown counts, and other shapes than the map's."""
    with pytest.raises(InvalidInputError):
        shrink_error_rates(errors, labels, sizes=(2,))
