"""A queue in which many flows share one server by their weights, and each keeps its own order."""

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Gives items out so that flows that all wait are served in proportion to their weights.

    A flow that was idle has no claim to what it did not use: it starts level with the one that is served. Of
    one flow, or of flows that wait in turn, the first come is the first served. Source: start-time fair
    queueing, Goyal, Vin and Cheng 1996.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        #: The start of the item that was given out last, and where each flow's next may start.
        self._now = 0.0
        self._next: dict[str, float] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Item]:
        """Give what waits, in no order."""
        return (item for _, _, item in self._heap)

    def push(self, item: Item, *, flow: str = "", weight: float = 1.0) -> None:
        """Append an item to a flow; ``weight`` is above 0."""
        start = max(self._now, self._next.get(flow, 0.0))
        self._next[flow] = start + 1.0 / weight
        self._count += 1
        heapq.heappush(self._heap, (start, self._count, item))

    def peek(self) -> Item:
        """Show the next item; ``IndexError`` where nothing waits."""
        return self._heap[0][2]

    def pop(self) -> Item:
        """Give the next item; ``IndexError`` where nothing waits."""
        self._now, _, item = heapq.heappop(self._heap)
        if not self._heap:
            self._now = 0.0
            self._next.clear()
        return item
