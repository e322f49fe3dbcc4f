"""When to try a call again: the one retry loop's arithmetic, apart from any clock."""

import random
from dataclasses import dataclass

from workers.calls.errors import CallError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with full jitter, bounded in tries and in time."""

    #: Calls at most, the first included.
    attempts: int = 5
    #: The back-off doubles from here ...
    first_s: float = 0.25
    #: ... to here. A longer Retry-After is honoured, up to ``longest_wait_s``.
    longest_s: float = 10.0
    longest_wait_s: float = 60.0

    def wait(self, attempt: int, error: CallError, *, left_s: float, rng: random.Random) -> float | None:
        """Give the seconds to wait after failed call number ``attempt`` (from 1), or ``None`` to give up.

        ``left_s`` is the time to the prompt's deadline: a wait that would pass it is not begun.
        """
        if attempt >= self.attempts or not error.retryable:
            return None
        ceiling = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        seconds = max(rng.uniform(0, ceiling), error.retry_after_s or 0.0)
        return seconds if seconds <= self.longest_wait_s and seconds < left_s else None
