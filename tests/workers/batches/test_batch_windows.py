"""How many lines of a batch are under way: enough for slow LLMs, few where they would only queue."""

import math

import pytest

from workers.batches.windows import FIRST, LEAST, TARGET_S, Window


def test_the_bound_follows_what_lines_wait_beyond_their_calls() -> None:
    """A round without any wait takes it times e^.5, one at the target leaves it, a longer one undoes that."""
    window = Window(10_000)

    window.answered([0.0] * FIRST, under_way=FIRST)
    grown = window.bound
    window.answered([TARGET_S] * grown, under_way=grown)
    kept = window.bound
    window.answered([9.0] * (grown + 1), under_way=grown)

    assert grown == int(FIRST * math.exp(0.5)) == 422
    assert kept == grown
    assert window.bound == pytest.approx(FIRST, abs=1)


def test_the_bound_stays_between_its_limits() -> None:
    """However long lines wait some are under way, and never more than was configured."""
    slow, fast, small = Window(1_000), Window(1_000), Window(5)
    for _ in range(100):
        slow.answered([60.0] * 1_000, under_way=1_000)
        fast.answered([0.0] * 1_000, under_way=1_000)
        small.answered([60.0] * 10, under_way=5)

    assert (slow.bound, fast.bound, small.bound) == (LEAST, 1_000, 5)


def test_a_bound_that_is_not_made_use_of_does_not_grow() -> None:
    """With a tenth of it under way nothing says that more could be."""
    window = Window(10_000)

    window.answered([0.0] * 20, under_way=FIRST // 10)

    assert window.bound == FIRST


def test_half_of_the_lines_decide() -> None:
    """A third that hung for minutes changes nothing."""
    window = Window(10_000)

    window.answered([600.0, 600.0, 0.0, 0.0, 0.0], under_way=FIRST)

    assert window.bound >= FIRST


@pytest.mark.parametrize(
    ("call_s", "per_second", "expected"), [(0.0, 300.0, 150.0), (1.0, 300.0, 450.0), (0.0, 60.0, 32.0)]
)
def test_it_settles_where_lines_wait_as_long_as_the_target(
    call_s: float, per_second: float, expected: float
) -> None:
    """By Little's law: what executors do in a second, times the call and the target."""
    window = Window(2_000)
    for _ in range(200):
        wait_s = max(0.0, window.bound / per_second - call_s)
        window.answered([wait_s] * window.bound, under_way=window.bound)

    assert window.bound == pytest.approx(expected, rel=0.05)
