"""How fast an LLM may be called: an even pace under a limit per minute; pure, the time is an argument."""

#: Of a limit per minute: the even pace, and what may go at once after a pause. Their sum leaves two parts in
#: a hundred for the call that each executor may begin at either end of a minute, and for jitter on the way.
_PACE = 0.96
_BURST = 0.02
_MINUTE_S = 60.0


class Pace:
    """Spreads amounts (requests or tokens) so that no sliding minute holds more than the limit.

    An even pace, not a full bucket: whoever takes over a share of a limit may go on at that pace at once,
    however much its predecessor used up, because neither can have more than the pace in any minute. An amount
    is reserved when it is taken, and corrected by ``settle`` when the true one is known. The last amount that
    is taken in a minute may pass its limit where amounts are large (tokens), by no more than itself.
    Source: the generic cell rate algorithm (ITU-T I.371), with the limit split as above.
    """

    def __init__(self, *, now: float) -> None:
        self._per_s: float | None = None
        self._burst_s = 0.0
        # The time at which all that was taken is paid off by the pace.
        self._due = now

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._per_s is not None

    def limit(self, per_minute: float | None, *, now: float) -> None:
        """Set this process's share of the limit; ``None`` for no limit, 0 for nothing at all.

        A new limit starts without credit.
        """
        if per_minute is None:
            self._per_s = None
            return
        per_s = per_minute * _PACE / _MINUTE_S
        if per_s == self._per_s:
            return
        self._per_s = per_s
        self._burst_s = _MINUTE_S * _BURST / _PACE
        self._due = max(self._due, now + self._burst_s)

    def wait_s(self, now: float) -> float:
        """Give the seconds until something may be taken: 0 for now, infinity for never."""
        if self._per_s is None:
            return 0.0
        if self._per_s == 0:
            return float("inf")
        return max(0.0, self._due - self._burst_s - now)

    def take(self, amount: float, *, now: float) -> None:
        """Take an amount; ``wait_s`` said that it may be."""
        if self._per_s:
            self._due = max(self._due, now) + amount / self._per_s

    def settle(self, difference: float) -> None:
        """Correct what was taken by the true amount less the reserved one."""
        if self._per_s:
            self._due += difference / self._per_s
