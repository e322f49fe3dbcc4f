import numpy as np
import pytest

from routing.errors import InvalidInputError, MissingSupportError
from routing.evaluation.off_policy import LoggedDecisions, estimate_value


def log_of(chosen: list[int], odds: list[list[float]], rewards: list[float]) -> LoggedDecisions:
    """Decisions named d0, d1, ..."""
    return LoggedDecisions(
        ids=[f"d{row}" for row in range(len(chosen))],
        chosen=np.array(chosen),
        probabilities=np.array(odds),
        rewards=np.array(rewards, dtype=float),
    )


#: Four even draws between two LLMs; the first was right once of two, the second twice of two.
EVEN = log_of([0, 0, 1, 1], [[0.5, 0.5]] * 4, [1, 0, 1, 1])
ALWAYS_SECOND = np.tile([0.0, 1.0], (4, 1))


def test_the_three_estimates_of_four_decisions() -> None:
    """Weights 0, 0, 2, 2: IPS (2 + 2)/4, SNIPS 4/4; DR .5 + (0 + 0 + 1 + 1)/4 with predictions of .5."""
    value = estimate_value(EVEN, ALWAYS_SECOND, np.full((4, 2), 0.5))

    assert (value.ips.value, value.snips.value, value.dr.value) == pytest.approx((1.0, 1.0, 1.0))
    assert value.effective_size == pytest.approx(2.0)
    assert value.decisions == 4


def test_the_doubly_robust_interval_is_students() -> None:
    """Terms .5, .5, 1.5, 1.5: deviation .57735, error .288675, t(1) = 12.7062 for an effective size of 2."""
    value = estimate_value(EVEN, ALWAYS_SECOND, np.full((4, 2), 0.5))

    low, high = value.dr.interval
    assert (high - low) / 2 == pytest.approx(12.7062 * 0.288675, rel=1e-4)


def test_right_predictions_leave_nothing_to_correct() -> None:
    """DR is the mean prediction, and its interval has no width."""
    log = log_of([0, 1], [[0.5, 0.5]] * 2, [0.2, 0.8])

    value = estimate_value(log, np.array([[0.5, 0.5]] * 2), np.array([[0.2, 0.8]] * 2))

    assert value.dr.value == pytest.approx(0.5)
    assert value.dr.interval == pytest.approx((0.5, 0.5))


def test_following_the_logged_policy_is_the_mean_reward() -> None:
    """All weights 1."""
    value = estimate_value(EVEN, EVEN.probabilities, np.zeros((4, 2)))

    assert value.ips.value == value.snips.value == pytest.approx(0.75)
    assert value.effective_size == pytest.approx(4.0)


def test_a_clip_bounds_the_weights() -> None:
    """At most 1 instead of 2: IPS (1 + 1)/4."""
    assert estimate_value(EVEN, ALWAYS_SECOND, np.zeros((4, 2)), clip=1.0).ips.value == pytest.approx(0.5)


def test_a_log_without_chance_is_refused_and_says_where() -> None:
    """Decisions that could not have chosen the second LLM are named."""
    log = log_of([0, 1, 0], [[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]], [1, 1, 0])

    with pytest.raises(MissingSupportError) as caught:
        estimate_value(log, np.tile([0.0, 1.0], (3, 1)), np.zeros((3, 2)))

    assert caught.value.decisions == ("d0", "d2")
    assert "2 of 3" in str(caught.value)
    assert "2 of them were made without chance" in str(caught.value)


def test_a_policy_that_no_logged_choice_follows_is_refused() -> None:
    """There was a chance, but it never came up: nothing was seen."""
    log = log_of([0, 0], [[0.9, 0.1]] * 2, [1, 0])

    with pytest.raises(MissingSupportError):
        estimate_value(log, np.tile([0.0, 1.0], (2, 1)), np.zeros((2, 2)))


def test_one_decision_with_all_the_weight_bounds_nothing() -> None:
    """An effective size of 1 has no spread to go by."""
    log = log_of([1, 0], [[0.5, 0.5]] * 2, [1, 0])

    value = estimate_value(log, np.tile([0.0, 1.0], (2, 1)), np.zeros((2, 2)))

    assert value.dr.interval == (-np.inf, np.inf)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    """200 logs of 300 even draws among three LLMs of quality .3, .5 and .8, predicted as .5: 90 to 98 %."""
    rng, qualities = np.random.default_rng(0), np.array([0.3, 0.5, 0.8])
    policy, covered = np.tile([0.0, 0.2, 0.8], (300, 1)), 0
    for _ in range(200):
        chosen = rng.integers(3, size=300)
        rewards = (rng.random(300) < qualities[chosen]).astype(float)
        log = log_of(chosen.tolist(), [[1 / 3] * 3] * 300, rewards.tolist())
        low, high = estimate_value(log, policy, np.full((300, 3), 0.5)).dr.interval
        covered += low <= 0.2 * 0.5 + 0.8 * 0.8 <= high

    assert 180 <= covered <= 196


@pytest.mark.parametrize(
    ("odds", "rewards"),
    [([[0.5, 0.4]] * 2, [1, 0]), ([[0.0, 1.0]] * 2, [1, 0]), ([[0.5, 0.5]] * 2, [1, 2])],
)
def test_a_log_that_cannot_be_is_refused(odds: list[list[float]], rewards: list[float]) -> None:
    """Odds that do not sum to 1, a choice of probability 0, a reward outside 0..1."""
    with pytest.raises(InvalidInputError):
        log_of([0, 0], odds, rewards)
