"""Every measure on a case worked out by hand."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.evaluation.curves import DeferralCurve
from routing.evaluation.metrics import (
    Pool,
    aiq,
    area,
    area_half,
    area_hull,
    areas,
    cost_save,
    least_cost,
    oracle_gap,
    peak,
    quality_neutral_cost,
)

# Four operating points over a pool whose LLMs cost 1 to 5; the one at (4, .6) is dominated.
CURVE = DeferralCurve(costs=np.array([1.0, 2.0, 4.0, 3.0]), qualities=np.array([0.4, 0.5, 0.6, 0.8]))
# Three LLMs: the best single one costs 5 and has .8.
POOL = Pool(costs=np.array([1.0, 2.0, 5.0]), qualities=np.array([0.4, 0.5, 0.8]))


def test_area_is_the_mean_of_the_steps() -> None:
    """.4 over 1..2, .5 over 2..3, .8 over 3..5: (.4 + .5 + 1.6) / 4 = .625."""
    assert area(CURVE, 1.0, 5.0) == pytest.approx(0.625)


def test_area_counts_a_cheaper_start_as_its_first_point() -> None:
    """From 0: .4 over 0..2, .5 over 2..3, .8 over 3..5: (.8 + .5 + 1.6) / 5 = .58."""
    assert area(CURVE, 0.0, 5.0) == pytest.approx(0.58)


def test_area_ignores_what_lies_beyond_the_dearest() -> None:
    """Up to 2.5: .4 over 1..2, .5 over 2..2.5: .65 / 1.5."""
    assert area(CURVE, 1.0, 2.5) == pytest.approx(0.65 / 1.5)


def test_area_of_a_pool_with_one_price_is_its_peak() -> None:
    """Where every LLM costs the same there is no range to average over."""
    curve = DeferralCurve(costs=np.array([2.0, 2.0]), qualities=np.array([0.3, 0.7]))

    assert area(curve, 2.0, 2.0) == 0.7
    assert area_hull(curve, 2.0, 2.0) == 0.7


def test_areas_takes_many_curves_at_once() -> None:
    """Each column is a curve with its own limits."""
    costs, qualities = np.array([[1.0, 1.0], [3.0, 2.0]]), np.array([[0.5, 0.2], [1.0, 0.6]])

    both = areas(costs, qualities, low=np.array([1.0, 1.0]), high=np.array([5.0, 2.0]))

    # (.5 * 2 + 1 * 2) / 4, and .2 over the whole of 1..2.
    assert both == pytest.approx([0.75, 0.2])


def test_area_on_the_hull_mixes_points() -> None:
    """Corners (1, .4), (3, .8), flat to 5: (.6 * 2 + .8 * 2) / 4 = .7; AIQ is the same number."""
    assert area_hull(CURVE, 1.0, 5.0) == pytest.approx(0.7)
    assert aiq(CURVE, 1.0, 5.0) == pytest.approx(0.7)


def test_area_at_half_is_the_cheaper_half() -> None:
    """Over 1..3: (.4 + .5) / 2 = .45."""
    assert area_half(CURVE, 1.0, 5.0) == pytest.approx(0.45)


def test_peak_is_the_highest_quality() -> None:
    """Wherever on the curve it is."""
    assert peak(CURVE) == 0.8


def test_quality_neutral_cost_is_relative_to_the_best_llm() -> None:
    """.8 is reached at 3 of 5."""
    assert quality_neutral_cost(CURVE, POOL) == pytest.approx(0.6)


def test_quality_never_reached_costs_infinitely_much() -> None:
    """A curve that stays below the best single LLM has no quality-neutral cost."""
    better = Pool(costs=POOL.costs, qualities=np.array([0.4, 0.5, 0.81]))

    assert quality_neutral_cost(CURVE, better) == np.inf
    assert least_cost(CURVE, 0.81) == np.inf


def test_rounding_does_not_hide_a_quality_that_is_reached() -> None:
    """Means of the same scores may differ in their last bits."""
    assert least_cost(CURVE, 0.8 + 1e-13) == 3.0


def test_cost_saved_within_some_points() -> None:
    """Within .01 of .8 at cost 3: 1 - 3/5; within .3 at cost 2: 1 - 2/5."""
    assert cost_save(CURVE, POOL, within=0.01) == pytest.approx(0.4)
    assert cost_save(CURVE, POOL, within=0.3) == pytest.approx(0.6)


def test_nothing_is_saved_where_the_quality_is_never_reached() -> None:
    """The caller stays with the best single LLM."""
    better = Pool(costs=POOL.costs, qualities=np.array([0.4, 0.5, 0.9]))

    assert cost_save(CURVE, better) == 0.0


def test_nothing_is_saved_where_it_costs_more() -> None:
    """A router that reaches the quality at a higher price saves 0, not less."""
    thrifty = Pool(costs=np.array([1.0, 2.0, 2.0]), qualities=POOL.qualities)

    assert cost_save(CURVE, thrifty) == 0.0


def test_the_oracle_gap_is_what_a_perfect_choice_would_add() -> None:
    """Best per prompt 1, 1, .6: mean .8667; the curve peaks at .8."""
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.2]])

    assert oracle_gap(CURVE, scores) == pytest.approx(2.6 / 3 - 0.8)


def test_the_best_single_llm_is_the_cheaper_of_equals() -> None:
    """Ties in quality go to the lower cost, ties in cost to the higher quality."""
    pool = Pool(costs=np.array([3.0, 2.0, 1.0, 1.0]), qualities=np.array([0.9, 0.9, 0.1, 0.2]))

    assert pool.best == 1
    assert pool.cheapest == 3
    assert pool.cost_range == (1.0, 3.0)


def test_a_pool_is_the_means_of_its_outcomes() -> None:
    """Scores and costs of every prompt and LLM, averaged over prompts."""
    pool = Pool.of(np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]))

    assert pool.qualities.tolist() == [0.5, 1.0]
    assert pool.costs.tolist() == [2.0, 3.0]
    with pytest.raises(InvalidInputError):
        Pool.of(np.zeros((2, 2)), np.zeros((2, 3)))


def test_a_curve_needs_finite_points() -> None:
    """No points, unequal lengths and NaN are refused."""
    for costs, qualities in [([], []), ([1.0], [0.1, 0.2]), ([np.nan], [0.1])]:
        with pytest.raises(InvalidInputError):
            DeferralCurve(costs=np.array(costs), qualities=np.array(qualities))
