"""How fast LLMs take a batch's lines where that keeps lines waiting: what no declared limit tells."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.batches.windows import TARGET_S

#: An LLM whose lines wait longer than this beyond their calls, half of them, takes no more than it is given.
#: The window lets lines wait ``TARGET_S`` where all LLMs are alike.
_WAITS_S = TARGET_S / 2
#: From fewer answers nothing is told.
_LEAST_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class Slow:
    """LLMs that keep lines waiting."""

    #: Lines in a second that each was seen to take.
    paces: Mapping[str, float]
    #: Lines that are under way at each LLM.
    under_way: Mapping[str, int]


NONE_SLOW = Slow({}, {})


class Paces:
    """Notes by LLM when answers came, and how long their lines waited in our queues for a turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, list[tuple[float, float]]] = {}

    def answered(self, llm: str, wait_s: float) -> None:
        """Note an answer that comes now, and the seconds that its line waited beyond its calls."""
        self._seen.setdefault(llm, []).append((self._clock(), wait_s))

    def measure(self) -> dict[str, float]:
        """Give the lines in a second of each LLM that keeps lines waiting, since this was last asked.

        From the first answer to the last: what came before it is not known to have been its own time.
        """
        seen, self._seen = self._seen, {}
        found = {}
        for llm, answers in sorted(seen.items()):
            first, last = answers[0][0], answers[-1][0]
            waits = statistics.median(wait for _, wait in answers)
            if len(answers) >= _LEAST_ANSWERS and last > first and waits > _WAITS_S:
                found[llm] = sum(at > first for at, _ in answers) / (last - first)
        return found
