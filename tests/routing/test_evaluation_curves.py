"""Deferral curves by hand and against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.evaluation.curves import DeferralCurve, follow_path, sample_path, trace_path

# Two prompts, two LLMs: "cheap" costs 1, "dear" 3. Prompt 0 gains .4 by the dear one, prompt 1 gains .1, so
# they switch to the cheap one at lambda = .4 / 2 = .2 and .1 / 2 = .05.
ERRORS = np.array([[0.6, 0.2], [0.3, 0.2]])
PRICES = np.array([1.0, 3.0])


def test_a_prompt_switches_where_gain_per_cost_says() -> None:
    """Switches come at (difference of errors) / (difference of costs), in ascending order."""
    path = trace_path(ERRORS, PRICES)

    assert path.lambdas == pytest.approx([0.05, 0.2])
    assert path.prompts.tolist() == [1, 0]
    assert path.llms.tolist() == [0, 0]


def test_the_curve_holds_every_operating_point() -> None:
    """Means over prompts of the recorded scores and costs, from all dear to all cheap."""
    scores = np.array([[0.0, 1.0], [1.0, 1.0]])

    curve = follow_path(trace_path(ERRORS, PRICES), scores, np.tile(PRICES, (2, 1)))

    # lambda = 0, by name and by cost: both dear; then prompt 1 cheap; then both cheap.
    assert curve.costs == pytest.approx([3.0, 3.0, 2.0, 1.0])
    assert curve.qualities == pytest.approx([1.0, 1.0, 1.0, 0.5])


def test_prompts_that_switch_together_make_one_point() -> None:
    """Equal prompts switch at the same lambda: no operating point lies between them."""
    path = trace_path(np.array([[0.5, 0.1], [0.5, 0.1]]), PRICES)
    scores = np.array([[0.0, 1.0], [0.0, 1.0]])

    curve = follow_path(path, scores, np.tile(PRICES, (2, 1)))

    assert curve.costs == pytest.approx([3.0, 3.0, 1.0])


def test_a_tie_at_lambda_zero_is_broken_both_ways() -> None:
    """Equal predicted errors give the first LLM's point and the cheapest LLM's point."""
    path = trace_path(np.array([[0.5, 0.5]]), np.array([3.0, 1.0]))

    assert path.by_name.tolist() == [0]
    assert path.cheapest.tolist() == [1]
    assert path.lambdas.size == 0


def test_infinite_lambda_takes_the_cheapest() -> None:
    """However wrong it is thought to be, the cheapest LLM wins in the end."""
    path = trace_path(np.array([[0.99, 0.5, 0.0]]), np.array([1.0, 2.0, 4.0]))

    assert path.choices(np.inf).tolist() == [0]
    assert path.choices(0.0).tolist() == [2]


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), own_costs=st.booleans())
def test_the_path_is_the_rule_at_any_lambda(seed: int, *, own_costs: bool) -> None:
    """At a lambda between two switches the path chooses what argmin error + lambda * cost chooses."""
    rng = np.random.default_rng(seed)
    n, n_llms = int(rng.integers(1, 8)), int(rng.integers(1, 6))
    errors = rng.random((n, n_llms))
    costs = rng.random((n, n_llms) if own_costs else n_llms) + 0.1
    path = trace_path(errors, costs)

    for error_per_cost in rng.exponential(2.0, 5):
        totals = errors + error_per_cost * np.broadcast_to(costs, errors.shape)
        assert path.choices(float(error_per_cost)).tolist() == totals.argmin(axis=1).tolist()


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_the_curve_is_what_the_choices_earn(seed: int) -> None:
    """Running sums along the path give the same points as adding up each choice from scratch."""
    rng = np.random.default_rng(seed)
    errors = rng.integers(0, 4, (6, 4)) / 4
    costs, scores = rng.random((6, 4)), rng.random((6, 4))
    path = trace_path(errors, costs.mean(axis=0))
    rows = np.arange(6)

    curve = follow_path(path, scores, costs)
    choices = sample_path(path, points=10_000)

    assert curve.costs == pytest.approx(costs[rows, choices].mean(axis=1))
    assert curve.qualities == pytest.approx(scores[rows, choices].mean(axis=1))


def test_a_sampled_path_keeps_both_ends() -> None:
    """Thinning never loses the best predicted quality nor the cheapest choice."""
    rng = np.random.default_rng(3)
    path = trace_path(rng.random((500, 4)), np.array([1.0, 2.0, 3.0, 4.0]))

    choices = sample_path(path, points=7)

    assert len(choices) == 8
    assert (choices[1] == path.cheapest).all()
    assert (choices[-1] == 0).all()


def test_the_envelope_never_falls() -> None:
    """A point that costs more and is no better is not on it."""
    curve = DeferralCurve(costs=np.array([4.0, 1.0, 2.0, 3.0]), qualities=np.array([0.7, 0.5, 0.4, 0.5]))

    envelope = curve.envelope()

    assert envelope.costs.tolist() == [1.0, 4.0]
    assert envelope.qualities.tolist() == [0.5, 0.7]


def test_the_hull_skips_what_mixing_beats() -> None:
    """(2, .5) lies under the line from (1, .4) to (3, .8); (3, .8) to (5, .9) stays."""
    curve = DeferralCurve(costs=np.array([1.0, 2.0, 3.0, 5.0]), qualities=np.array([0.4, 0.5, 0.8, 0.9]))

    hull = curve.hull()

    assert hull.costs.tolist() == [1.0, 3.0, 5.0]
    assert hull.qualities.tolist() == [0.4, 0.8, 0.9]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    """NaN and infinity have no place in a routing rule."""
    with pytest.raises(InvalidInputError):
        trace_path(np.array([[bad, 0.1]]), PRICES)
    with pytest.raises(InvalidInputError):
        trace_path(ERRORS, np.array([bad, 1.0]))
