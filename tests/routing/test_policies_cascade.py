"""Cascades: calibration, the rule for an answer, and whom to ask next; numbers worked by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.policies import Candidates
from routing.policies.cascade import (
    Calibration,
    CascadeRule,
    CascadeStart,
    bound_escalation,
    choose_next,
    fit_calibration,
)


def test_calibration_pools_what_is_out_of_order() -> None:
    """Scores 0, 1, 0, 1 at 1, 2, 3, 4: the middle two are pooled to a half."""
    fitted = fit_calibration(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, 1.0]))

    assert [fitted.chance(at) for at in (0.0, 1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 9.0)] == [
        0.0,
        0.0,
        0.5,
        0.5,
        0.5,
        0.75,
        1.0,
        1.0,
    ]


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40),
    st.floats(-100, 100),
    st.floats(-100, 100),
)
def test_more_confidence_is_never_less_chance(
    labels: list[tuple[float, float]], one: float, other: float
) -> None:
    """Whatever it was fitted on, the chance is in 0..1 and does not fall."""
    confidences, scores = np.array(labels).T
    fitted = fit_calibration(confidences, scores)
    low, high = sorted((one, other))

    assert 0 <= fitted.chance(low) <= fitted.chance(high) <= 1


def test_a_confidence_that_is_no_number_is_none_at_all() -> None:
    """NaN gets the least chance."""
    assert Calibration(np.array([-1.0, 0.0]), np.array([0.25, 1.0])).chance(float("nan")) == 0.25


@pytest.mark.parametrize(
    ("confidences", "chances"),
    [([], []), ([0.0], [2.0]), ([1.0, 0.0], [0.0, 1.0]), ([0.0, 1.0], [1.0, 0.0]), ([0.0], [0.0, 1.0])],
)
def test_a_calibration_must_make_sense(confidences: list[float], chances: list[float]) -> None:
    """Empty, out of range, descending or of two lengths is refused."""
    with pytest.raises(InvalidInputError):
        Calibration(np.array(confidences), np.array(chances))


def test_an_answer_is_taken_passed_on_or_given_up() -> None:
    """Accept from 0.8 on, abstain below 0.2; the last LLM's answer is taken in between."""
    rule = CascadeRule(accept_at=0.8, abstain_below=0.2)
    chances = (0.1, 0.2, 0.79, 0.8)

    assert [rule.judge(chance, is_last=False) for chance in chances] == [
        "abstain",
        "escalate",
        "escalate",
        "accept",
    ]
    assert [rule.judge(chance, is_last=True) for chance in chances] == [
        "abstain",
        "accept",
        "accept",
        "accept",
    ]


def test_the_next_llm_is_the_one_worth_its_cost() -> None:
    """Half sure: 0.45 - 0.2 beats 0.3 - 0.1; surer, the cheap one; sure, nobody."""
    errors, costs = np.array([0.1, 0.4]), np.array([0.002, 0.001])

    assert choose_next(0.5, errors, costs, error_per_usd=100.0) == 0  # 0.25 against 0.2
    assert choose_next(0.7, errors, costs, error_per_usd=100.0) == 1  # 0.07 against 0.08
    assert choose_next(0.9, errors, costs, error_per_usd=100.0) is None  # -0.11 and -0.04
    assert choose_next(0.5, np.array([]), np.array([]), error_per_usd=1.0) is None


def candidates(allowed: list[list[bool]]) -> Candidates:
    """Two prompts; errors of a, b, c are .5, .3, .1 and costs .001, .002, .01 USD for both."""
    return Candidates(
        errors=np.tile([0.5, 0.3, 0.1], (2, 1)),
        costs=np.tile([0.001, 0.002, 0.01], (2, 1)),
        allowed=np.array(allowed),
        names=("a", "b", "c"),
    )


def test_a_cascade_in_order_starts_with_the_first_that_is_allowed() -> None:
    """First c, then a; b is none of its LLMs, so where only b is allowed nobody is asked."""
    found = CascadeStart(llms=("c", "a")).choose(
        candidates([[True, True, False], [False, True, False]]), rng=np.random.default_rng(0)
    )

    assert found.llms.tolist() == [0, -1]
    assert found.propensities.tolist() == [1.0, 0.0]


def test_a_cascade_by_gain_starts_with_the_least_error_and_weighed_cost() -> None:
    """At 20: a .52, b .34, c .3; at 40: .54, .38, .5. Without b the choice at 40 is c."""
    every = candidates([[True, True, True], [True, False, True]])
    rng = np.random.default_rng(0)

    assert CascadeStart(llms=("a", "b", "c"), error_per_usd=20).choose(every, rng=rng).llms.tolist() == [2, 2]
    assert CascadeStart(llms=("a", "b", "c"), error_per_usd=40).choose(every, rng=rng).llms.tolist() == [1, 2]


@pytest.mark.parametrize("rule", [{"llms": ()}, {"llms": ("a",), "error_per_usd": -1.0}])
def test_a_start_that_cannot_be_is_refused(rule: dict[str, Any]) -> None:
    """No LLMs, and a lambda below 0."""
    with pytest.raises(InvalidInputError):
        CascadeStart(**rule)


@pytest.mark.parametrize(
    ("error", "accept_at", "least", "most"),
    [
        (0.5, 0.8, 0.375, 1.0),  # 1 - .5 / .8; .5 / .2 is past 1
        (0.1, 0.8, 0.0, 0.5),
        (0.0, 0.8, 0.0, 0.0),
        (1.0, 0.8, 1.0, 1.0),
        (0.3, 0.0, 0.0, 0.0),
        (0.3, 1.0, 0.3, 1.0),
    ],
)
def test_escalation_is_bounded_by_the_predicted_error(
    error: float, accept_at: float, least: float, most: float
) -> None:
    """Worked by hand from Markov's inequality."""
    assert bound_escalation(error, accept_at=accept_at) == (pytest.approx(least), pytest.approx(most))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), st.floats(1e-6, 1.0 - 1e-6))
def test_no_calibrated_confidence_leaves_the_bounds(chances: list[float], accept_at: float) -> None:
    """Whatever chances answers have, the share below the bar is within what their mean allows."""
    found = np.array(chances)
    least, most = bound_escalation(float(1.0 - found.mean()), accept_at=accept_at)

    assert least - 1e-9 <= (found < accept_at).mean() <= most + 1e-9
