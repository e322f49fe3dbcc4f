import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from workers.errors import PoisonError, WaitableError
from workers.messages import Message, Record
from workers.transactions import Backoff, CallWork, Completion, Start
from workers.transactions.call_work import CallHandler
from workers.transactions.work import Grant

#: Waits that no test notices.
HASTE = Backoff(first_s=0.001, longest_s=0.002)


def message(offset: int, *, partition: int = 0) -> Message:
    """A message whose value is its offset."""
    return Message(
        topic="in", partition=partition, offset=offset, timestamp_ms=0, key=None, value=str(offset).encode()
    )


async def echo(message: Message, _start: Start) -> Sequence[Record]:
    """One record per message."""
    return [Record(topic="out", key=None, value=message.value)]


@contextmanager
def working(handle: CallHandler, *, max_in_flight: int = 100) -> Iterator[CallWork]:
    """A CallWork that is closed in the end."""
    work = CallWork(handle, max_in_flight=max_in_flight, backoff=HASTE)
    try:
        yield work
    finally:
        work.close()


def collect(work: CallWork, count: int) -> list[Completion]:
    """Take so many completions, or fail by the number that came within ten seconds each."""
    completions: list[Completion] = []
    while len(completions) < count and (more := work.completed(10.0)):
        completions += more
    return completions


def test_calls_complete_in_any_order() -> None:
    """A call that hangs holds up none that comes after it."""
    release = asyncio.Event()

    async def handle(message: Message, _start: Start) -> Sequence[Record]:
        if message.offset == 0:
            await release.wait()
        elif message.offset == 2:
            release.set()
        return await echo(message, _start)

    with working(handle) as work:
        work.submit([message(0), message(1)])
        first = collect(work, 1)
        work.submit([message(2)])
        rest = collect(work, 2)

    assert [done.message.offset for done in first] == [1]
    assert {done.message.offset for done in rest} == {0, 2}


def test_a_thousand_calls_run_at_once_and_no_more() -> None:
    """Calls start until the limit is reached; the others wait their turn."""
    running = most = 0

    async def handle(message: Message, _start: Start) -> Sequence[Record]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return await echo(message, _start)

    with working(handle, max_in_flight=1_000) as work:
        work.submit([message(offset) for offset in range(2_500)])
        room = work.room
        completions = collect(work, 2_500)

    assert len(completions) == 2_500
    assert room == 0
    assert most == 1_000


def test_what_is_away_is_waited_for() -> None:
    """WaitableError repeats the call until it passes."""
    calls = 0

    async def handle(message: Message, _start: Start) -> Sequence[Record]:
        nonlocal calls
        calls += 1
        if calls <= 20:
            raise WaitableError("endpoint", "connection refused")
        return await echo(message, _start)

    with working(handle) as work:
        work.submit([message(0)])
        (done,) = collect(work, 1)

    assert calls == 21
    assert done.rejection is None


def test_poison_is_rejected_at_once_and_errors_of_ours_after_retries() -> None:
    """Each failing call ends as a rejection of its class; its neighbours end well."""
    calls: list[int] = []

    async def handle(message: Message, _start: Start) -> Sequence[Record]:
        calls.append(message.offset)
        if message.offset == 1:
            raise PoisonError("not_json", "the value is not JSON")
        if message.offset == 2:
            raise KeyError("a secret prompt")
        return await echo(message, _start)

    with working(handle) as work:
        work.submit([message(offset) for offset in range(3)])
        completions = {done.message.offset: done for done in collect(work, 3)}

    assert sorted(calls) == [0, 1, 2, 2, 2]
    assert completions[0].rejection is None
    poison, bug = completions[1].rejection, completions[2].rejection
    assert poison is not None
    assert bug is not None
    assert (poison.error_class, poison.disposition, poison.attempts) == ("not_json", "rejected", 1)
    assert (bug.error_class, bug.disposition, bug.attempts) == ("handler_error", "exhausted", 3)
    assert bug.sentence == "processing raised KeyError 3 times"


def test_a_cancellation_of_the_handlers_own_is_an_error_of_ours() -> None:
    """A handler that cancels itself is retried and rejected; its message does not vanish."""

    async def handle(_message: Message, _start: Start) -> Sequence[Record]:
        raise asyncio.CancelledError

    with working(handle) as work:
        work.submit([message(0)])
        (done,) = collect(work, 1)

    assert done.rejection is not None
    assert done.rejection.sentence == "processing raised CancelledError 3 times"


def test_forgetting_cancels_calls_and_what_waits() -> None:
    """The calls of a forgotten partition are cancelled, its waiting messages never start."""
    started: list[tuple[int, int]] = []
    cancelled = threading.Event()

    async def handle(message: Message, _start: Start) -> Sequence[Record]:
        started.append((message.partition, message.offset))
        if message.partition == 0:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        return await echo(message, _start)

    with working(handle, max_in_flight=1) as work:
        work.submit([message(0), message(1), message(0, partition=1)])
        work.forget([("in", 0)])
        completions = collect(work, 1)

    assert [done.message.partition for done in completions] == [1]
    assert (0, 1) not in started
    assert cancelled.is_set() or (0, 0) not in started


def test_closing_cancels_everything() -> None:
    """A closed work has cancelled its calls, has nothing in flight, and may be closed again."""
    started, ended = threading.Event(), threading.Event()

    async def handle(_message: Message, _start: Start) -> Sequence[Record]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    work = CallWork(handle, max_in_flight=10)
    work.submit([message(0)])
    started.wait(10)
    work.close()
    work.submit([message(1)])
    work.forget([("in", 0)])
    work.close()

    assert ended.is_set()
    assert work.in_flight == 0


def grant_all(work: CallWork, count: int) -> None:
    """Let so many begin that ask to."""
    granted = 0
    while granted < count:
        asking = work.starting()
        work.start([Grant(message=one.message) for one in asking])
        granted += len(asking)
        if not asking:
            work.completed(0.01)


def test_only_calls_are_worth_waiting_for() -> None:
    """Of one that waits to begin, one that was let begin and one that rests after it, the second."""
    entered, release = threading.Event(), asyncio.Event()

    async def handle(message: Message, start: Start) -> Sequence[Record]:
        if message.offset == 0:
            await release.wait()
        await start("out")
        if message.offset == 2:
            with start.resting():
                entered.set()
                await release.wait()
        else:
            await release.wait()
        return []

    with working(handle) as work:
        work.submit([message(offset) for offset in range(3)])
        before = work.under_way
        grant_all(work, 2)
        entered.wait(10)

        assert (before, work.in_flight, work.under_way) == (0, 3, 1)


def test_what_rested_is_worth_waiting_for_again() -> None:
    """And so is what is complete and has not been taken."""
    rested, ended = threading.Event(), asyncio.Event()

    async def handle(_message: Message, start: Start) -> Sequence[Record]:
        await start("out")
        with start.resting():
            pass
        rested.set()
        await ended.wait()
        return []

    with working(handle) as work:
        work.submit([message(0)])
        grant_all(work, 1)
        rested.wait(10)

        assert work.under_way == 1


def test_what_is_withdrawn_asks_again() -> None:
    """The log is told that nothing was begun, and once more before something is."""
    withdrawn = threading.Event()

    async def handle(_message: Message, start: Start) -> Sequence[Record]:
        await start("out")
        start.withdraw()
        withdrawn.set()
        await start("out")
        return [Record(topic="out", key=None, value=b"begun")]

    with working(handle) as work:
        work.submit([message(0)])
        grant_all(work, 1)
        withdrawn.wait(10)
        back, under_way = work.withdrawn(), work.under_way
        grant_all(work, 1)
        (done,) = collect(work, 1)

    assert [one.offset for one in back] == [0]
    assert under_way == 0
    assert done.records[0].value == b"begun"


def test_a_handler_that_begins_nothing_knows_what_earlier_lives_began() -> None:
    """Of each message by itself, as it was submitted; nothing is asked of the log."""

    async def handle(_message: Message, start: Start) -> Sequence[Record]:
        return [Record(topic="out", key=None, value=str(start.earlier).encode())]

    with working(handle, max_in_flight=1) as work:
        work.submit([message(0), message(1)], [2, 0])
        work.submit([message(2)])
        done = collect(work, 3)
        asking = work.starting()

    assert [one.records[0].value for one in done] == [b"2", b"0", b"0"]
    assert asking == []


def test_what_is_forgotten_is_not_waited_for() -> None:
    """Nor told of as withdrawn."""
    begun = threading.Event()

    async def handle(_message: Message, start: Start) -> Sequence[Record]:
        await start("out")
        begun.set()
        await asyncio.Event().wait()
        return []

    with working(handle) as work:
        work.submit([message(0)])
        grant_all(work, 1)
        begun.wait(10)
        work.forget([("in", 0)])

        assert (work.under_way, work.withdrawn()) == (0, [])
