"""How many lines of a batch may be under way: as many as wait for LLMs, and few that wait for us."""

import math
import statistics
from collections.abc import Sequence

#: Seconds that a line may wait in our own queues, beyond its calls, when nothing else is to be held up.
TARGET_S = 0.5
#: What a round of answers that waited not at all multiplies the bound by is e to this.
GAIN = 0.5
FIRST = 256
#: A batch always has so many under way: live traffic that never pauses does not end it.
LEAST = 32


class Window:
    """A bound on lines under way that gives way to whoever shares the executors and their cores.

    More lines than are being answered only queue, in the executors and for their cores, and live prompts
    queue with them. So the bound follows how long lines waited beyond their calls: towards more while that is
    less than ``TARGET_S``, towards fewer while it is more, by a share of the bound for each round of answers.
    What an LLM takes does not count: slow LLMs get as many lines as it takes to keep them busy.
    Source: after LEDBAT, a transport for what should yield to all else (RFC 6817), with absolute delays.
    """

    def __init__(self, most: int) -> None:
        """``most`` is never exceeded."""
        self._most = float(most)
        self._least = float(min(LEAST, most))
        self._bound = float(min(FIRST, most))

    @property
    def bound(self) -> int:
        """Lines under way, at most; at least one."""
        return int(self._bound)

    def answered(self, waits: Sequence[float], *, under_way: int) -> None:
        """Note the seconds that lines waited beyond their calls, with as many under way before.

        Half of the lines decide: single stragglers change nothing. A bound that was not made use of, because
        money or lines were short, does not grow.
        """
        if not waits:
            return
        off = max(-1.0, min(1.0, 1.0 - statistics.median(waits) / TARGET_S))
        if off > 0 and under_way < self._bound / 2:
            return
        rounds = min(1.0, len(waits) / self._bound)
        self._bound = max(self._least, min(self._most, self._bound * math.exp(GAIN * off * rounds)))
