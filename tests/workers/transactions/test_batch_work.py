import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from workers.errors import PoisonError, WaitableError
from workers.messages import Message, Record
from workers.transactions import Backoff, BatchWork, Completion
from workers.transactions.batch_work import BatchHandler

#: Waits that no test notices.
HASTE = Backoff(first_s=0.001, longest_s=0.002)


def message(offset: int, *, partition: int = 0) -> Message:
    """A message whose value is its offset."""
    return Message(
        topic="in", partition=partition, offset=offset, timestamp_ms=0, key=None, value=str(offset).encode()
    )


def echo(batch: Sequence[Message]) -> list[list[Record]]:
    """One record per message."""
    return [[Record(topic="out", key=None, value=message.value)] for message in batch]


@contextmanager
def working(handle: BatchHandler, *, max_batch: int = 8, batch_s: float = 10.0) -> Iterator[BatchWork]:
    """A BatchWork that is closed in the end."""
    work = BatchWork(handle, max_batch=max_batch, batch_s=batch_s, backoff=HASTE)
    try:
        yield work
    finally:
        work.close()


def collect(work: BatchWork, count: int) -> list[Completion]:
    """Take so many completions, or fail by the number that came within ten seconds each."""
    completions: list[Completion] = []
    while len(completions) < count and (more := work.completed(10.0)):
        completions += more
    return completions


def take_for_ever(work: BatchWork) -> None:
    """Take completions until it raises."""
    while True:
        work.completed(0.01)


def test_an_idle_work_hands_over_one_message_at_once() -> None:
    """A single message does not wait for company."""
    sizes: list[int] = []

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        sizes.append(len(batch))
        return echo(batch)

    with working(handle) as work:
        work.submit([message(0)])
        (done,) = collect(work, 1)

    assert sizes == [1]
    assert [record.value for record in done.records] == [b"0"]
    assert done.rejection is None


def test_what_waits_becomes_the_next_batch() -> None:
    """While one batch is handled, what comes gathers into one batch, up to the bound."""
    sizes: list[int] = []
    entered, gate = threading.Event(), threading.Event()

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        sizes.append(len(batch))
        entered.set()
        gate.wait(10)
        return echo(batch)

    with working(handle, max_batch=8) as work:
        work.submit([message(0)])
        entered.wait(10)
        work.submit([message(offset) for offset in range(1, 12)])
        gate.set()
        collect(work, 12)

    assert sizes == [1, 8, 3]


def test_batches_shrink_to_what_the_time_allows() -> None:
    """At 100 ms a message and 250 ms a batch, batches settle at two messages."""
    now = 0.0
    sizes: list[int] = []

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        nonlocal now
        now += 0.1 * len(batch)
        sizes.append(len(batch))
        return echo(batch)

    work = BatchWork(handle, max_batch=64, batch_s=0.25, clock=lambda: now)
    work.submit([message(offset) for offset in range(30)])
    collect(work, 30)
    work.close()

    assert set(sizes[1:]) == {2}


def test_room_counts_what_is_not_taken_back() -> None:
    """A work wants three batches at most, and says zero rather than less."""
    with working(echo, max_batch=4) as work:
        rooms = [work.room]
        work.submit([message(offset) for offset in range(15)])
        rooms.append(work.room)
        collect(work, 15)
        rooms.append(work.room)

    assert rooms == [12, 0, 12]
    assert work.in_flight == 0


def test_what_is_away_is_waited_for() -> None:
    """WaitableError repeats the same batch until it passes, however often."""
    calls = 0

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        nonlocal calls
        calls += 1
        if calls <= 20:
            raise WaitableError("Postgres", "connection refused")
        return echo(batch)

    with working(handle) as work:
        work.submit([message(0)])
        (done,) = collect(work, 1)

    assert calls == 21
    assert done.rejection is None


def test_a_poison_message_is_rejected_and_its_neighbours_are_not() -> None:
    """PoisonError singles out its message, with its class and without retries."""
    calls: list[int] = []

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        calls.append(len(batch))
        if any(message.value == b"3" for message in batch):
            raise PoisonError("not_json", "the value is not JSON")
        return echo(batch)

    with working(handle) as work:
        work.submit([message(offset) for offset in range(5)])
        completions = {done.message.offset: done for done in collect(work, 5)}

    rejection = completions.pop(3).rejection
    assert rejection is not None
    assert (rejection.error_class, rejection.sentence, rejection.attempts, rejection.disposition) == (
        "not_json",
        "the value is not JSON",
        1,
        "rejected",
    )
    assert all(done.records for done in completions.values())
    assert len(completions) == 4


def test_an_error_of_ours_is_retried_then_rejected() -> None:
    """An unexpected exception is tried as a batch, then alone; what it said is not repeated."""
    calls: list[tuple[int, ...]] = []

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        calls.append(tuple(message.offset for message in batch))
        if any(message.offset == 1 for message in batch):
            raise KeyError("a secret prompt")
        return echo(batch)

    gate = threading.Event()
    entered = threading.Event()

    def gated(batch: Sequence[Message]) -> list[list[Record]]:
        if batch[0].offset == 9:
            entered.set()
            gate.wait(10)
            return echo(batch)
        return handle(batch)

    with working(gated) as work:
        work.submit([message(9)])
        entered.wait(10)
        work.submit([message(0), message(1)])
        gate.set()
        completions = {done.message.offset: done for done in collect(work, 3)}

    assert calls == [(0, 1), (0, 1), (0, 1), (0,), (1,), (1,), (1,)]
    rejection = completions[1].rejection
    assert rejection is not None
    assert (rejection.error_class, rejection.attempts, rejection.disposition) == (
        "handler_error",
        3,
        "exhausted",
    )
    assert rejection.sentence == "processing raised KeyError 3 times"
    assert completions[0].rejection is None


def test_an_answer_of_the_wrong_length_is_an_error_of_ours() -> None:
    """A handler that loses a message is not believed about the others."""
    with working(lambda _: []) as work:
        work.submit([message(0)])
        (done,) = collect(work, 1)

    assert done.rejection is not None
    assert done.rejection.sentence == "processing raised ValueError 3 times"


def test_forgotten_messages_never_complete() -> None:
    """Forgetting a partition drops its results, also those of the batch in the works; others come."""
    entered, gate = threading.Event(), threading.Event()

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        entered.set()
        gate.wait(10)
        return echo(batch)

    with working(handle) as work:
        work.submit([message(0, partition=0), message(0, partition=1), message(1, partition=0)])
        entered.wait(10)
        work.forget([("in", 0)])
        in_flight = work.in_flight
        gate.set()
        completions = collect(work, 1)

    assert in_flight == 1
    assert [done.message.partition for done in completions] == [1]


def test_the_result_of_a_forgotten_copy_is_not_taken_for_the_new_one() -> None:
    """A message that comes again after being forgotten completes once, by its own processing."""
    entered, gate = threading.Event(), threading.Event()
    calls = 0

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        nonlocal calls
        calls += 1
        entered.set()
        gate.wait(10)
        return [[Record(topic="out", key=None, value=str(calls).encode())] for _ in batch]

    with working(handle) as work:
        work.submit([message(0)])
        entered.wait(10)
        work.forget([("in", 0)])
        work.submit([message(0)])
        gate.set()
        (done,) = collect(work, 1)
        rest = work.completed()

    assert [record.value for record in done.records] == [b"2"]
    assert list(rest) == []


def test_forgetting_ends_the_wait_for_what_is_away() -> None:
    """A batch nobody wants any more does not keep the thread waiting."""

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        if batch[0].partition == 0:
            away.set()
            raise WaitableError("Postgres", "connection refused")
        return echo(batch)

    away = threading.Event()
    work = BatchWork(handle, backoff=Backoff(first_s=1_000.0, longest_s=1_000.0))
    work.submit([message(0, partition=0)])
    away.wait(10)
    work.submit([message(0, partition=1)])
    work.forget([("in", 0)])
    completions = collect(work, 1)
    work.close()

    assert [done.message.partition for done in completions] == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_not_waited_for() -> None:
    """A handler that ends its thread is found out by the loop, instead of waiting for ever."""

    def handle(_batch: Sequence[Message]) -> list[list[Record]]:
        raise SystemExit

    work = BatchWork(handle)
    work.submit([message(0)])
    with pytest.raises(RuntimeError, match="has died"):
        take_for_ever(work)
    work.close()


def test_closing_drops_everything() -> None:
    """A closed work has nothing in flight, completes nothing, and may be closed again."""
    work = BatchWork(echo)
    work.close()
    work.submit([message(0)])
    work.close()

    assert work.in_flight == 0
    assert list(work.completed(0.0)) == []


@pytest.mark.parametrize("failures", [1, 2, 5, 60])
def test_backoff_doubles_up_to_its_bound(failures: int) -> None:
    """The delay after n failures lies in the upper half of min(longest, first * 2**(n-1))."""
    ceiling = min(5.0, 0.1 * 2 ** (failures - 1))
    delays = [Backoff().delay_s(failures) for _ in range(50)]

    assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
