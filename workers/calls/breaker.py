"""A breaker per endpoint: closed, open while nothing but errors comes, half-open to try with one call."""

from collections import deque
from typing import Literal

State = Literal["closed", "open", "half_open"]

#: Classes of errors that speak of the endpoint, not of the prompt.
FAILURES = frozenset({"server", "connection", "timeout", "auth"})

#: Opens when the last so many calls failed, or at least this part of more of them, within so many seconds.
_IN_A_ROW = 10
_CALLS = 20
_PART = 0.8
_WITHIN_S = 60.0
#: The first pause; each probe that fails doubles it, up to the longest.
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0


class Breaker:
    """Pure, the time is an argument.

    *closed*: calls go. *open*: none does, until ``opens_at``. *half-open*: one call goes, the probe; its
    success closes the breaker, its failure opens it for twice as long. A probe that is given up frees the
    place for another. Calls that began before it opened say nothing of what comes after.
    """

    def __init__(self) -> None:
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_CALLS)
        self._pause_s = _FIRST_PAUSE_S
        self._probing = False
        self._opens_at: float | None = None
        #: The class of the last failure.
        self.cause = ""

    def state(self, now: float) -> State:
        """Where it stands."""
        if self._opens_at is None:
            return "closed"
        return "open" if now < self._opens_at else "half_open"

    @property
    def opens_at(self) -> float | None:
        """When a probe may go; ``None`` while it is closed."""
        return self._opens_at

    def admits(self, now: float) -> bool:
        """Whether a call may go."""
        state = self.state(now)
        return state == "closed" or (state == "half_open" and not self._probing)

    def begin(self, now: float) -> bool:
        """Note that a call goes, which ``admits`` let; tell whether it is the probe."""
        self._probing = self.state(now) == "half_open"
        return self._probing

    def succeeded(self, *, probe: bool) -> None:
        """Note that the endpoint works: it answered, or it refused a prompt for what it is."""
        if probe:
            self._opens_at, self._probing, self._pause_s = None, False, _FIRST_PAUSE_S
            self._outcomes.clear()
        elif self._opens_at is None:
            self._outcomes.append((float("inf"), True))

    def failed(self, cause: str, *, now: float, probe: bool) -> None:
        """Note an error of one of the classes in ``FAILURES``."""
        if probe:
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
            self._open(cause, now)
        if self._opens_at is not None:
            return
        self._outcomes.append((now, False))
        failed = [not good and now - at <= _WITHIN_S for at, good in self._outcomes]
        in_a_row = len(failed) >= _IN_A_ROW and all(failed[-_IN_A_ROW:])
        if in_a_row or sum(failed) >= _PART * _CALLS:
            self._open(cause, now)

    def gave_up(self, *, probe: bool) -> None:
        """Note that a call ended without telling anything: it was cancelled."""
        if probe:
            self._probing = False

    def _open(self, cause: str, now: float) -> None:
        self.cause = cause
        self._opens_at = now + self._pause_s
        self._probing = False
        self._outcomes.clear()
