"""Work done one message at a time by coroutines, thousands at once, each of which completes by itself."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import repeat
from threading import Thread
from typing import Protocol

import structlog

from workers.errors import PoisonError, WaitableError
from workers.messages import Message, Record
from workers.transactions.backoff import Backoff
from workers.transactions.call_journal import CallJournal
from workers.transactions.work import Completion, Grant, Ledger, Partition, Starting, partition_of, reject


class Start(Protocol):
    """To be awaited before the first call for a message, with the topics that the answer goes to.

    Raises ``PoisonError`` of class ``unknown_topic`` where one of the
    topics does not exist: the answer would be paid and lost.
    """

    @property
    def earlier(self) -> int:
        """How often calls had been begun for the message before, whether or not any is begun now.

        That was in lives of this or of other processes that ended before they could commit what came of it.
        """

    def __call__(self, *topics: str) -> Awaitable[None]:
        """Wait until the log knows of the call; awaited again, it asks no second time."""

    def sending(self) -> None:
        """Say, right before its first byte leaves, that the call is made; not said, it may count as not."""

    def withdraw(self) -> None:
        """Tell the log, with its next commit, that no call was made; to be awaited again before one is."""

    def resting(self) -> AbstractContextManager[None]:
        """What is awaited inside is no call: whoever stops does not wait for it."""


CallHandler = Callable[[Message, Start], Awaitable[Sequence[Record]]]

_CLOSE_S = 2.0
#: A message, and how often calls were begun for it before.
_Submitted = tuple[Message, int]
_Ask = Callable[[Message, Sequence[str]], Awaitable[None]]

log = structlog.get_logger(__name__)


class CallWork:
    """Runs ``handle`` for each message as a task of an asyncio loop in a daemon thread.

    At most ``max_in_flight`` run at once; what is submitted beyond waits its turn. ``handle`` returns the
    records to produce. It awaits the ``Start`` that it is given before it does what a crash does not undo:
    that returns when the log knows of it. ``paused`` gives topics of which nothing more is wanted. When
    ``handle`` raises

    - ``WaitableError``: something is away. It is called again, with back-off, for ever.
    - ``PoisonError``: the message is rejected with the error's class.
    - anything else: an error of ours. It is called ``attempts`` times, then rejected as ``handler_error``.

    A ``journal``, which the loop writes too, is told which calls are sent. ``forget`` and ``close`` cancel
    the tasks concerned.
    """

    def __init__(
        self,
        handle: CallHandler,
        *,
        max_in_flight: int,
        attempts: int = 3,
        backoff: Backoff = Backoff(),  # noqa: B008  # a frozen value
        paused: Callable[[], Collection[str]] = tuple,
        journal: CallJournal | None = None,
    ) -> None:
        self._handle = handle
        self._journal = journal
        self._paused = paused
        self._max_in_flight = max_in_flight
        self._attempts = attempts
        self._backoff = backoff
        self._ledger = Ledger()
        # These three belong to the asyncio thread.
        self._waiting: deque[_Submitted] = deque()
        self._calls: dict[asyncio.Task[None], Message] = {}
        # Those that wait to be told to start, by the identity of their message.
        self._starts: dict[int, asyncio.Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name="call-work", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """How many messages are submitted and neither taken back nor forgotten."""
        return self._ledger.in_flight

    @property
    def under_way(self) -> int:
        """How many were told to start and neither are complete nor rest."""
        return self._ledger.under_way

    @property
    def room(self) -> int:
        """How many more calls may start at once."""
        return max(0, self._max_in_flight - self._ledger.in_flight)

    @property
    def paused(self) -> Collection[str]:
        """Topics of which the handler wants no more now."""
        return self._paused()

    def submit(self, messages: Sequence[Message], earlier: Sequence[int] = ()) -> None:
        """Take messages to process; never blocks. ``earlier`` is what their handlers are told of each."""
        if not self._ledger.closed:
            self._ledger.add(messages)
            submitted = tuple(zip(messages, earlier or repeat(0), strict=False))
            self._loop.call_soon_threadsafe(self._enqueue, submitted)

    def starting(self) -> Sequence[Starting]:
        """Hand over what the handlers that await their ``Start`` ask for."""
        return self._ledger.take_starting()

    def start(self, grants: Sequence[Grant]) -> None:
        """Let the handlers of these messages go on."""
        if grants and not self._ledger.closed:
            self._ledger.begin([grant.message for grant in grants if grant.missing is None])
            self._loop.call_soon_threadsafe(self._answer, tuple(grants))

    def withdrawn(self) -> Sequence[Message]:
        """Hand over what was told to start and waits for its turn anew."""
        return self._ledger.take_withdrawn()

    def completed(self, wait_s: float = 0.0) -> Sequence[Completion]:
        """Hand over what has completed since the last call; wait so long for the first if there is none."""
        if not self._thread.is_alive() and not self._ledger.closed:
            raise RuntimeError("the thread that makes calls has died")
        return self._ledger.take(wait_s)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop what is in flight or complete for these partitions, and cancel its calls."""
        if not self._ledger.closed:
            self._ledger.forget(partitions)
            self._loop.call_soon_threadsafe(self._cancel, frozenset(partitions))

    def close(self) -> None:
        """Drop everything and cancel every call; one that resists for two seconds is left to the daemon."""
        if not self._ledger.closed:
            self._ledger.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end_all())
        finally:
            self._loop.close()

    async def _end_all(self) -> None:
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _enqueue(self, submitted: Sequence[_Submitted]) -> None:
        self._waiting.extend(submitted)
        self._start_calls()

    def _start_calls(self) -> None:
        while self._waiting and len(self._calls) < self._max_in_flight:
            message, earlier = self._waiting.popleft()
            task = self._loop.create_task(self._call(message, earlier))
            self._calls[task] = message
            task.add_done_callback(self._end_call)

    def _end_call(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        if not self._ledger.closed:
            self._start_calls()

    def _answer(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            future = self._starts.get(id(grant.message))
            if future is None or future.done():
                continue
            if grant.missing is None:
                future.set_result(None)
            else:
                problem = f"topic {grant.missing!r} does not exist, or may not be written to"
                future.set_exception(PoisonError("unknown_topic", problem))

    async def _await_grant(self, message: Message, topics: Sequence[str]) -> None:
        future = self._starts[id(message)] = self._loop.create_future()
        self._ledger.ask(Starting(message=message, topics=topics))
        try:
            await future
        finally:
            del self._starts[id(message)]

    def _cancel(self, partitions: Collection[Partition]) -> None:
        self._waiting = deque(one for one in self._waiting if partition_of(one[0]) not in partitions)
        for task, message in self._calls.items():
            if partition_of(message) in partitions:
                task.cancel()

    async def _call(self, message: Message, earlier: int) -> None:
        failures = attempt = 0
        start = _Start(message, earlier, self._ledger, self._await_grant, self._journal)
        while True:
            try:
                records = await self._handle(message, start)
            except WaitableError as error:
                failures += 1
                log.warning("work_waits", what=error.what, problem=error.problem, failures=failures)
                await asyncio.sleep(self._backoff.delay_s(failures))
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # rejected with its class
                if not self._ledger.still_wanted([message]):
                    return  # cancelled by us
                attempt += 1
                if isinstance(error, PoisonError) or attempt == self._attempts:
                    rejection = reject(error, attempts=attempt)
                    self._ledger.complete([Completion(message=message, rejection=rejection)])
                    return
                await asyncio.sleep(self._backoff.delay_s(attempt))
            else:
                self._ledger.complete([Completion(message=message, records=records)])
                return


class _Start:
    """The ``Start`` of one message."""

    def __init__(
        self, message: Message, earlier: int, ledger: Ledger, ask: _Ask, journal: CallJournal | None
    ) -> None:
        self.earlier = earlier
        self._journal = journal
        self._message = message
        self._ledger = ledger
        self._ask = ask
        self._known = False

    async def __call__(self, *topics: str) -> None:
        if not self._known:
            await self._ask(self._message, topics)
            self._known = True

    def sending(self) -> None:
        if self._journal is not None and self._known:
            self._journal.sending(self._message, self.earlier + 1)

    def withdraw(self) -> None:
        if self._known:
            self._known = False
            self._ledger.withdraw(self._message)

    @contextmanager
    def resting(self) -> Iterator[None]:
        rests = self._ledger.rest(self._message)
        try:
            yield
        finally:
            if rests:
                self._ledger.begin([self._message])
