"""Intervals: weights, percentiles and Student's t."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.evaluation.bootstrap import (
    bootstrap_interval,
    paired_interval,
    resample_prompts,
    resampled_areas,
)
from routing.evaluation.curves import follow_path, sample_path, trace_path
from routing.evaluation.metrics import Pool, area


def test_each_resample_is_n_draws() -> None:
    """Columns are shares of n draws with replacement: multiples of 1/n that sum to 1."""
    weights = resample_prompts(5, replicates=3, rng=np.random.default_rng(0))

    assert weights.shape == (5, 3)
    assert weights.sum(axis=0) == pytest.approx(np.ones(3))
    assert (weights * 5) % 1 == pytest.approx(np.zeros((5, 3)))


def test_a_resample_is_the_area_of_the_repeated_prompts() -> None:
    """Weights 2/3, 0, 1/3 are the curve and the pool of the first prompt twice and the third once."""
    rng = np.random.default_rng(1)
    errors, scores, costs = rng.random((3, 3, 2))
    drawn = [0, 0, 2]

    path = trace_path(errors, costs.mean(axis=0))
    full, resampled = resampled_areas(sample_path(path), scores, costs, np.array([[2.0], [0.0], [1.0]]) / 3)

    again = trace_path(errors[drawn], costs.mean(axis=0))
    curve = follow_path(again, scores[drawn], costs[drawn])
    assert resampled == pytest.approx([area(curve, *Pool.of(scores[drawn], costs[drawn]).cost_range)])
    assert full == pytest.approx(area(follow_path(path, scores, costs), *Pool.of(scores, costs).cost_range))


def test_an_interval_is_laid_around_the_exact_value() -> None:
    """Replicates 0..100 around 50, the exact value 60: 2.5 and 97.5 per cent shifted by 10."""
    assert bootstrap_interval(60.0, 50.0, np.arange(101.0)) == pytest.approx((12.5, 107.5))


def test_a_paired_interval_is_students() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(.975, 2) = 4.302653."""
    half = 4.302653 / np.sqrt(3)

    assert paired_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_one_trial_has_no_interval() -> None:
    """A single difference says nothing of its spread."""
    with pytest.raises(InvalidInputError):
        paired_interval([1.0])
