import random
from typing import Any

import pytest

from workers.calls.errors import RETRYABLE, CallError
from workers.calls.retries import RetryPolicy

POLICY = RetryPolicy(attempts=5, first_s=0.25, longest_s=10.0, longest_wait_s=60.0)
ENDLESS = float("inf")


class Highest(random.Random):
    """Draws the upper end of every interval, so that ceilings can be read off."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 (the interface is random's)
        """Give ``b``."""
        return b


def wait(attempt: int, error: CallError, *, policy: RetryPolicy = POLICY, left_s: float = ENDLESS) -> Any:
    """Ask a policy with the highest draw."""
    return policy.wait(attempt, error, left_s=left_s, rng=Highest())


@pytest.mark.parametrize(
    ("attempt", "ceiling"),
    # 0.25 * 2 ** (attempt - 1), no more than 10.
    [(1, 0.25), (2, 0.5), (3, 1.0), (4, 2.0), (6, 8.0), (7, 10.0), (60, 10.0)],
)
def test_the_back_off_doubles_up_to_a_bound(attempt: int, ceiling: float) -> None:
    """The n-th failed call is followed by at most first * 2 ** (n - 1) seconds, at most the longest."""
    policy = RetryPolicy(attempts=100, first_s=0.25, longest_s=10.0)

    assert wait(attempt, CallError("server", ""), policy=policy) == ceiling


def test_the_jitter_is_full() -> None:
    """Waits are drawn evenly from 0 to the ceiling: of 1,000 draws below 1 s the mean is near a half."""
    rng = random.Random(0)

    waits = [POLICY.wait(3, CallError("server", ""), left_s=ENDLESS, rng=rng) for _ in range(1_000)]
    seconds = [one for one in waits if one is not None]

    assert len(seconds) == 1_000
    assert min(seconds) < 0.01
    assert max(seconds) > 0.99
    # The standard deviation of a mean of 1,000 even draws from 0..1 is .0091.
    assert sum(seconds) / 1_000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("attempt", "retry_after_s", "left_s", "expected"),
    [
        (1, 3.0, ENDLESS, 3.0),  # longer than .25
        (1, 0.1, ENDLESS, 0.25),  # shorter than the draw: the draw
        (1, 60.0, ENDLESS, 60.0),  # the longest that is waited for
        (1, 60.1, ENDLESS, None),
        (1, 3.0, 3.1, 3.0),
        (1, 3.0, 3.0, None),  # would end at the deadline
        (3, None, 1.0, None),  # the draw of 1.0 would end at the deadline
        (3, None, 1.1, 1.0),
        (4, None, ENDLESS, 2.0),
        (5, None, ENDLESS, None),  # the fifth call was the last
    ],
)
def test_waits_are_bounded_by_wish_deadline_and_tries(
    attempt: int, retry_after_s: float | None, left_s: float, expected: float | None
) -> None:
    """Retry-After is honoured up to a bound, and no wait is begun that would pass the deadline."""
    error = CallError("rate_limit", "", retry_after_s=retry_after_s)

    assert wait(attempt, error, left_s=left_s) == expected


@pytest.mark.parametrize("error_class", ["context_window", "content_policy", "auth", "bad_request"])
def test_what_would_fail_again_is_not_tried_again(error_class: str) -> None:
    """Four classes are the caller's or the operator's to mend."""
    assert error_class not in RETRYABLE
    assert wait(1, CallError(error_class, "", retry_after_s=1.0)) is None
