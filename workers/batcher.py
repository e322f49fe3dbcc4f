"""The batcher: take up the batches that nobody works on, and run each in a thread of its own."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from workers.batches.handle import Handle, Workplace
from workers.batches.running import run_batch
from workers.errors import WaitableError
from workers.storage.batches import Batches
from workers.storage.engine import transaction

_LOOK_S = 0.5
#: Batches that one process works on at a time; the others wait for their turn, oldest first.
MOST_BATCHES = 4
_JOIN_S = 8.0
#: A batch whose work crashed is left alone for so long, at most.
_LONGEST_WAIT_S = 60.0

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
        self._crashes: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}

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
        if len(self._threads) >= MOST_BATCHES:
            return
        with transaction(self._place.engine) as session:
            waiting = [batch_id for batch_id in Batches(session).open() if batch_id not in self._threads]
        for batch_id in waiting:
            if len(self._threads) >= MOST_BATCHES:
                break
            if time.monotonic() < self._not_before.get(batch_id, 0.0):
                continue
            with ExitStack() as stack:
                handle = Handle(batch_id, self._place)
                if not stack.enter_context(handle.folder.locked()):
                    continue  # another batcher's
                thread = threading.Thread(
                    target=self._work, args=(handle, stack.pop_all()), name=batch_id, daemon=True
                )
                self._threads[batch_id] = thread
                thread.start()

    def _work(self, handle: Handle, lock: ExitStack) -> None:
        with lock:
            try:
                self._run_batch(handle)
            except Exception as error:
                # It is taken up again after a while; the others go on.
                self._crashes[handle.id] += 1
                wait_s = min(_LOOK_S * 2 ** self._crashes[handle.id], _LONGEST_WAIT_S)
                self._not_before[handle.id] = time.monotonic() + wait_s
                log.exception("batch_crashed", batch=handle.id, problem=f"{type(error).__name__}: {error}")
