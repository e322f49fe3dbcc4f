"""Work done in batches on a thread of its own, so that it overlaps the next poll and the previous commit."""

import time
from collections.abc import Callable, Collection, Sequence
from queue import Empty, SimpleQueue
from threading import Thread

import structlog

from workers.errors import PoisonError, WaitableError
from workers.messages import Message, Record
from workers.transactions.backoff import Backoff
from workers.transactions.work import Completion, Grant, Ledger, Partition, Starting, reject

BatchHandler = Callable[[Sequence[Message]], Sequence[Sequence[Record]]]

_CLOSE_S = 2.0
_FIRST_BOUND = 16

log = structlog.get_logger(__name__)


class BatchWork:
    """Hands messages to ``handle`` in batches, one batch at a time, on a daemon thread.

    A batch is what waits when the previous one ends, but no more than ``max_batch`` nor than what has been
    seen to take ``batch_s`` seconds: an idle system answers one message at once and a busy one stays
    efficient. That bound may double from one batch to the next, so it is found within a few batches.

    ``handle`` returns the records to produce for each message, in order. When it raises

    - ``WaitableError``: something is away. The same batch is tried again, with back-off, for ever.
    - ``PoisonError``: a message is beyond mending. Each is processed alone, and the one that raises it again
      is rejected with the error's class.
    - anything else: an error of ours. The batch is tried ``attempts`` times, then each message alone as many
      times; the one that still fails is rejected as ``handler_error``.

    So ``handle`` must bear to be called again with messages that it has seen.
    """

    def __init__(
        self,
        handle: BatchHandler,
        *,
        max_batch: int = 512,
        batch_s: float = 0.25,
        attempts: int = 3,
        backoff: Backoff = Backoff(),  # noqa: B008  # a frozen value
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._max_batch = max_batch
        self._batch_s = batch_s
        self._attempts = attempts
        self._backoff = backoff
        self._clock = clock
        self._bound = min(_FIRST_BOUND, max_batch)
        self._ledger = Ledger()
        self._queue: SimpleQueue[Message | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="batch-work", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """How many messages are submitted and neither taken back nor forgotten."""
        return self._ledger.in_flight

    @property
    def under_way(self) -> int:
        """All of them: a batch is short."""
        return self._ledger.in_flight

    @property
    def room(self) -> int:
        """Enough for one batch in the works, one that waits and one that is being committed."""
        return max(0, 3 * self._max_batch - self._ledger.in_flight)

    @property
    def paused(self) -> Collection[str]:
        """None."""
        return ()

    def submit(self, messages: Sequence[Message], earlier: Sequence[int] = ()) -> None:
        """Take messages to process; never blocks. What a batch does, a crash undoes: none was begun."""
        del earlier
        self._ledger.add(messages)
        for message in messages:
            self._queue.put(message)

    def starting(self) -> Sequence[Starting]:
        """Nothing: what a batch does, a crash undoes."""
        return ()

    def start(self, grants: Sequence[Grant]) -> None:
        """Nothing waits for it."""

    def withdrawn(self) -> Sequence[Message]:
        """Nothing: what was submitted is done."""
        return ()

    def completed(self, wait_s: float = 0.0) -> Sequence[Completion]:
        """Hand over what has completed since the last call; wait so long for the first if there is none."""
        if not self._thread.is_alive() and not self._ledger.closed:
            raise RuntimeError("the thread that handles batches has died")
        return self._ledger.take(wait_s)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop what is in flight or complete for these partitions; a call under way runs on for nothing."""
        self._ledger.forget(partitions)

    def close(self) -> None:
        """Drop everything; a call of ``handle`` that does not end in two seconds is left to the daemon."""
        self._ledger.close()
        self._queue.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            started = self._clock()
            self._process(self._ledger.still_wanted(batch))
            self._adapt(len(batch), self._clock() - started)

    def _next_batch(self) -> list[Message] | None:
        """Wait for a message and take what waits with it; ``None`` when closed."""
        batch: list[Message] = []
        try:
            message = self._queue.get()
            while message is not None:
                batch.append(message)
                if len(batch) >= self._bound:
                    return batch
                message = self._queue.get_nowait()
        except Empty:
            return batch
        return None

    def _adapt(self, size: int, seconds: float) -> None:
        affordable = int(size * self._batch_s / max(seconds, 1e-9))
        self._bound = max(1, min(self._max_batch, 2 * self._bound, affordable))

    def _process(self, batch: Sequence[Message]) -> None:
        for attempt in range(1, self._attempts + 1):
            outcome = self._attempt(batch)
            if not isinstance(outcome, Exception):
                self._ledger.complete(outcome)
                return
            hopeless = isinstance(outcome, PoisonError) or attempt == self._attempts
            if hopeless and len(batch) == 1:
                rejection = reject(outcome, attempts=attempt)
                self._ledger.complete([Completion(message=batch[0], rejection=rejection)])
                return
            if hopeless:
                break
            self._ledger.pause(batch, self._backoff.delay_s(attempt))
        for message in batch:
            self._process([message])

    def _attempt(self, batch: Sequence[Message]) -> list[Completion] | Exception:
        """Call ``handle`` until nothing it needs is away; give what it raised otherwise."""
        failures = 0
        while wanted := self._ledger.still_wanted(batch):
            try:
                outputs = self._handle(wanted)
                return [
                    Completion(message=message, records=records)
                    for message, records in zip(wanted, outputs, strict=True)
                ]
            except WaitableError as error:
                failures += 1
                log.warning("work_waits", what=error.what, problem=error.problem, failures=failures)
                self._ledger.pause(wanted, self._backoff.delay_s(failures))
            except Exception as error:  # noqa: BLE001  # retried, then rejected with its class
                return error
        return []
