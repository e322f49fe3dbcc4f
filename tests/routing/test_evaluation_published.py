"""RouteLLM's, RouterEval's and RouterArena's numbers on cases worked out by hand."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.evaluation.binary import (
    average_gap_recovered,
    call_performance_threshold,
    gap_curve,
    performance_gap_recovered,
)
from routing.evaluation.leaderboards import arena_score, router_eval

# Four prompts, ranked by the router in this order: strong wins, tie, strong wins, weak wins.
STRONG_WINS = [0.9, 0.7, 0.5, 0.1]
WEAK = [0.0, 1.0, 0.0, 1.0]
STRONG = [1.0, 1.0, 1.0, 0.0]


def test_the_gap_recovered_is_relative_to_both_llms() -> None:
    """(.7 - .5) / (.75 - .5) = .8."""
    assert performance_gap_recovered(0.7, weak=0.5, strong=0.75) == pytest.approx(0.8)


def test_the_gap_curve_follows_the_ranking() -> None:
    """Weak has .5, strong .75; after 1, 2, 3, 4 calls .75, .75, 1, .75."""
    shares, recovered = gap_curve(STRONG_WINS, WEAK, STRONG)

    assert shares.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert recovered == pytest.approx([0.0, 1.0, 1.0, 2.0, 1.0])


def test_the_average_gap_recovered_is_the_area_under_it() -> None:
    """Trapezia of width .25: (.5 + 1 + 1.5 + 1.5) / 4 = 1.125; a router that knows nothing has .5."""
    assert average_gap_recovered(*gap_curve(STRONG_WINS, WEAK, STRONG)) == pytest.approx(1.125)
    assert average_gap_recovered(*gap_curve([0.5] * 4, WEAK, STRONG)) == pytest.approx(0.5)


def test_the_call_threshold_lies_between_known_shares() -> None:
    """PGR .5 half-way to the first call, .125 of all; 1 at .25; 1.5 half-way between .5 and .75; 3 never."""
    curve = gap_curve(STRONG_WINS, WEAK, STRONG)

    assert call_performance_threshold(*curve, gap=0.5) == pytest.approx(0.125)
    assert call_performance_threshold(*curve, gap=1.0) == pytest.approx(0.25)
    assert call_performance_threshold(*curve, gap=1.5) == pytest.approx(0.625)
    assert call_performance_threshold(*curve, gap=3.0) == np.inf
    assert call_performance_threshold(*curve, gap=0.0) == 0.0


def test_equal_llms_have_no_gap() -> None:
    """Dividing by no difference would say nothing."""
    with pytest.raises(InvalidInputError):
        performance_gap_recovered(0.5, weak=0.5, strong=0.5)
    with pytest.raises(InvalidInputError):
        gap_curve([0.5, 0.1], [1.0, 0.0], [0.0, 1.0])
    with pytest.raises(InvalidInputError):
        gap_curve([0.5], [1.0, 0.0], [0.0, 1.0])


def test_router_eval_of_a_sure_router() -> None:
    """Scores .8 and .4 chosen: mu .6; the best single LLM has .45, the reference .75; no entropy."""
    scores = np.array([[0.8, 0.5], [0.0, 0.4]])

    result = router_eval(scores, np.eye(2), reference=0.75)

    assert result.mu == pytest.approx(0.6)
    assert result.v_b == pytest.approx(0.6 / 0.45)
    assert result.v_r == pytest.approx(0.8)
    assert result.e_p == 0.0


def test_router_eval_of_a_coin() -> None:
    """Half and half on both prompts: the mean score, one bit."""
    scores = np.array([[1.0, 0.0], [1.0, 1.0]])

    result = router_eval(scores, np.full((2, 2), 0.5))

    assert result.mu == pytest.approx(0.75)
    assert result.v_b == pytest.approx(0.75)
    assert result.v_r is None
    assert result.e_p == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scores", "probabilities", "reference"),
    [
        (np.ones((2, 2)), np.ones((2, 2)), None),
        (np.ones((2, 2)), np.ones((2, 3)) / 3, None),
        (np.zeros((2, 2)), np.eye(2), None),
        (np.ones((2, 2)), np.eye(2), 0.0),
    ],
)
def test_router_eval_refuses_what_has_no_ratio(
    scores: np.ndarray, probabilities: np.ndarray, reference: float | None
) -> None:
    """Rows that are no distributions, other shapes, and a best LLM or reference that never scores."""
    with pytest.raises(InvalidInputError):
        router_eval(scores, probabilities, reference=reference)


def test_the_arena_score_weighs_accuracy_against_thrift() -> None:
    """200 and .0044 USD are 0 and 1 of thrift; their geometric mean .93808 USD is one half.

    There S = 1.1 * .6 * .5 / (.06 + .5) = .33 / .56.
    """
    assert arena_score(0.6, 0.0044) == pytest.approx(1.1 * 0.6 / 1.06)
    assert arena_score(0.6, (200 * 0.0044) ** 0.5) == pytest.approx(0.33 / 0.56)
    assert arena_score(0.6, 200.0) == 0.0


def test_the_arena_score_holds_costs_within_its_range() -> None:
    """Free calls are as good as .0044 USD, 1,000 USD as bad as 200; no accuracy, no score."""
    assert arena_score(0.6, 0.0) == arena_score(0.6, 0.0044)
    assert arena_score(0.6, 1_000.0) == 0.0
    assert arena_score(0.0, 1.0) == 0.0
    with pytest.raises(InvalidInputError):
        arena_score(1.1, 1.0)
