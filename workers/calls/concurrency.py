"""How many calls to an LLM run at once: more while all goes well, far fewer at the first sign that not."""

#: Fewer calls at once: after a refusal, after slowness.
_AFTER_REFUSAL = 0.5
_AFTER_SLOWNESS = 0.9
#: Slow is so many times the best that was usual.
_SLOW = 3.0
#: Weights of a new call in the two averages of seconds.
_RECENT = 0.1
_USUAL = 0.01
#: Calls before slowness is judged.
_ENOUGH = 20
_AT_LEAST_S = 1.0


class Concurrency:
    """A bound on calls in flight that follows what the endpoint bears; pure, the time is an argument.

    Starts at the most that is configured, since nothing is known. A refusal (429) halves it, slowness takes a
    tenth off it: no more than once in the time of a usual call, because all calls in flight tell the same.
    Each success adds one over the bound, so one per round of calls.
    Source: additive increase, multiplicative decrease (Chiu & Jain 1989).
    """

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._bound = float(most)
        self._recent_s: float | None = None
        self._usual_s = 0.0
        self._calls = 0
        self._held_until = float("-inf")

    @property
    def bound(self) -> int:
        """Calls in flight, at most; at least one."""
        return int(self._bound)

    def succeeded(self, seconds: float, *, now: float) -> None:
        """Note an answer and the time it took."""
        self._calls += 1
        if self._recent_s is None:
            self._recent_s = self._usual_s = seconds
        self._recent_s += _RECENT * (seconds - self._recent_s)
        self._usual_s += _USUAL * (seconds - self._usual_s)
        self._usual_s = min(self._usual_s, max(self._recent_s, seconds))
        if self._calls >= _ENOUGH and self._recent_s > _SLOW * self._usual_s:
            self._shrink(_AFTER_SLOWNESS, now)
        else:
            self._bound = min(self._most, self._bound + 1.0 / self._bound)

    def refused(self, *, now: float, in_flight: int) -> None:
        """Note that the endpoint had enough, with so many calls in flight."""
        # A bound far above what ever was in flight would take many refusals to be felt.
        self._bound = min(self._bound, max(1.0, float(in_flight)))
        self._shrink(_AFTER_REFUSAL, now)

    def _shrink(self, factor: float, now: float) -> None:
        if now >= self._held_until:
            self._bound = max(1.0, self._bound * factor)
            self._held_until = now + max(_AT_LEAST_S, self._recent_s or 0.0)
