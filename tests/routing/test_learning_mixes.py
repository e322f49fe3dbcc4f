"""Prompts that are no longer those of the map: shares of clusters and distances, by hand."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.learning import MixReport, PromptMix, compare_mix


def mix(recent: list[int], rise: float = 0.0, *, times: int = 1) -> MixReport:
    """Against (``times``) 500, 300 and 200 prompts whose distances have mean .5 and deviation .1."""
    return compare_mix(made_of([times * n for n in (500, 300, 200)], 0.5), made_of(recent, 0.5 + rise))


def made_of(prompts: list[int], mean: float) -> PromptMix:
    """Prompts per cell, half of them .1 nearer than ``mean`` and half of them .1 farther."""
    n = sum(prompts)
    return PromptMix(
        cells=np.array(prompts, dtype=np.float64), distance=n * mean, distance_squared=n * (mean**2 + 0.01)
    )


def test_the_same_mix_has_not_drifted() -> None:
    """The same shares: nothing moved."""
    report = mix([250, 150, 100])

    assert not report.drifted
    assert report.moved == 0.0


def test_a_fifth_of_the_prompts_that_moved_is_drift() -> None:
    """Shares .5, .3, .2 become .3, .3, .4: total variation .2, a little less after chance."""
    report = mix([150, 150, 200])

    assert report.drifted
    assert 0.15 < report.moved < 0.2


def test_prompts_far_from_every_centroid_are_drift() -> None:
    """The same shares, half a deviation farther."""
    report = mix([250, 150, 100], rise=0.05)

    assert report.drifted
    assert report.farther == pytest.approx(0.5, abs=0.01)


def test_a_change_beyond_chance_but_small_is_none() -> None:
    """.5 to .47 on 100,000 prompts is certain, and too little to matter."""
    report = mix([47_000, 32_000, 21_000], times=100)

    assert report.shares_p < 1e-6
    assert not report.drifted


def test_an_empty_window_has_not_drifted() -> None:
    """No prompt, no evidence."""
    report = compare_mix(made_of([5, 5], 0.5), made_of([0, 0], 0.5))

    assert not report.drifted


def test_windows_add_up() -> None:
    """Sums of two windows are those of both together: 2 prompts, .2 and .4 away, mean .3, variance .02."""
    both = PromptMix.of([0], [0.2], size=2) + PromptMix.of([1], [0.4], size=2)

    assert both.cells.tolist() == [1.0, 1.0]
    assert both.mean_distance == pytest.approx(0.3)
    assert both.distance_variance == pytest.approx(0.02)


def test_mixes_of_other_maps_are_not_compared() -> None:
    """Cells must be the same, and one prompt has no spread."""
    with pytest.raises(InvalidInputError):
        compare_mix(made_of([5, 5], 0.5), made_of([1, 2, 3], 0.5))
    with pytest.raises(InvalidInputError):
        compare_mix(made_of([1, 0], 0.5), made_of([1, 2], 0.5))
