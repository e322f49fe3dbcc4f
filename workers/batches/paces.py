"""How fast LLMs take a batch's lines where that keeps lines waiting: what no declared limit tells."""

import statistics
import time
from collections.abc import Callable

from workers.batches.windows import TARGET_S

#: An LLM whose lines wait longer than this beyond their calls, half of them, takes no more than it is given.
#: The window lets lines wait ``TARGET_S`` where all LLMs are alike.
_WAITS_S = TARGET_S / 2
#: From fewer answers nothing is told.
_LEAST_ANSWERS = 5


class Paces:
    """Counts answers by LLM, and how long their lines waited in our queues for a turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waits: dict[str, list[float]] = {}
        self._since = clock()

    def answered(self, llm: str, wait_s: float) -> None:
        """Note an answer, and the seconds that its line waited beyond its calls."""
        self._waits.setdefault(llm, []).append(wait_s)

    def measure(self) -> dict[str, float]:
        """Give the lines in a second of each LLM that keeps lines waiting, since this was last asked."""
        seconds, waits = self._clock() - self._since, self._waits
        self._since, self._waits = self._clock(), {}
        if seconds <= 0:
            return {}
        return {
            llm: len(found) / seconds
            for llm, found in sorted(waits.items())
            if len(found) >= _LEAST_ANSWERS and statistics.median(found) > _WAITS_S
        }
