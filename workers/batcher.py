"""The batcher: take up the batches that nobody works on, and run each in a thread of its own."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

import structlog

from workers.batches.handle import Handle, Workplace
from workers.batches.running import run_batch
from workers.errors import WaitableError
from workers.storage.batches import Batches, OpenBatch
from workers.storage.engine import transaction

Turn = Literal["work", "end", "paused"]

_LOOK_S = 0.5
#: Batches that one process takes up at a time, by what is to be done; the others wait for their turn, oldest
#: first. Paused ones wait until they are resumed, cancelled or late: whose replies are outstanding goes on to
#: collect them, and takes nobody's place. Ending costs little and is not to wait for those that work.
PLACES: dict[Turn, int] = {"work": 4, "end": 16, "paused": 0}
_JOIN_S = 8.0
#: A batch whose work crashed is left alone for so long, at most.
_LONGEST_WAIT_S, _MOST_DOUBLED = 60.0, 10

log = structlog.get_logger(__name__)


class Batcher:
    """Works on open batches until it is told to stop.

    Several batchers may share a folder: each batch belongs to whoever holds the lock of its folder, which a
    dead process lets go of at once.
    """

    def __init__(self, place: Workplace, *, run: Callable[[Handle], None] = run_batch) -> None:
        self._place = place
        self._run_batch = run
        self._threads: dict[str, threading.Thread] = {}
        self._crashes: Counter[tuple[str, Turn]] = Counter()
        self._not_before: dict[tuple[str, Turn], float] = {}

    def run(self, stop: threading.Event) -> None:
        """Block until ``stop`` is set and the batches stand still."""
        try:
            while not stop.wait(_LOOK_S):
                try:
                    self._take_up()
                except WaitableError as error:
                    log.warning("batcher_waits", problem=str(error))
        finally:
            self._place.stop.set()
            for thread in self._threads.values():
                thread.join(_JOIN_S)

    def _take_up(self) -> None:
        self._threads = {name: thread for name, thread in self._threads.items() if thread.is_alive()}
        with transaction(self._place.engine) as session:
            found = [(one.id, _turn(one)) for one in Batches(session).open()]
        taken = Counter(turn for batch_id, turn in found if batch_id in self._threads)
        for batch_id, turn in found:
            if batch_id in self._threads or taken[turn] >= PLACES[turn]:
                continue
            if time.monotonic() >= self._not_before.get((batch_id, turn), 0.0):
                taken[turn] += self._begin(batch_id, turn)

    def _begin(self, batch_id: str, turn: Turn) -> bool:
        """Work on a batch in a thread of its own, unless another batcher does."""
        with ExitStack() as stack:
            handle = Handle(batch_id, self._place)
            if not stack.enter_context(handle.folder.locked()):
                return False
            thread = threading.Thread(
                target=self._work, args=(handle, turn, stack.pop_all()), name=batch_id, daemon=True
            )
            self._threads[batch_id] = thread
            thread.start()
            return True

    def _work(self, handle: Handle, turn: Turn, lock: ExitStack) -> None:
        with lock:
            try:
                self._run_batch(handle)
                self._crashes.pop((handle.id, turn), None)
            except Exception as error:
                # It is taken up again after a while, at once where there is something else to do of it.
                self._crashes[handle.id, turn] += 1
                doubled = min(self._crashes[handle.id, turn], _MOST_DOUBLED)
                wait_s = min(_LOOK_S * 2**doubled, _LONGEST_WAIT_S)
                self._not_before[handle.id, turn] = time.monotonic() + wait_s
                log.exception("batch_crashed", batch=handle.id, problem=f"{type(error).__name__}: {error}")


def _turn(batch: OpenBatch) -> Turn:
    """Say what is to be done of a batch now; to end comes before all else."""
    if batch.ending:
        return "end"
    return "paused" if batch.paused else "work"
