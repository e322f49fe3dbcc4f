import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from kafka.errors import CommitFailedError

from workers.messages import Message, Record
from workers.transactions import Completion, LoopConfig, LoopCounters
from workers.transactions.consumer import Rebalance
from workers.transactions.deliveries import Deliveries
from workers.transactions.destinations import Destinations
from workers.transactions.offsets import OffsetTracker
from workers.transactions.session import Session
from workers.transactions.work import Grant, Starting

P0, P1 = ("t.in", 0), ("t.in", 1)
Polled = tuple[Sequence[Rebalance], Mapping[tuple[str, int], Sequence[Message]]]


def message(partition: tuple[str, int], offset: int) -> Message:
    """A message."""
    return Message(
        topic=partition[0], partition=partition[1], offset=offset, timestamp_ms=0, key=b"k", value=b"v"
    )


@dataclass
class FakeConsumer:
    """Plays back polls; sets ``stop`` with the last of them, or so many before it."""

    polls: list[Polled]
    stop: threading.Event
    polls_after_stop: int
    #: Answers of ``membership``, the last of which stays.
    memberships: list[Any] = field(default_factory=lambda: ["member"])
    held: list[frozenset[tuple[str, int]]] = field(default_factory=list)
    #: How often calls were begun by predecessors, by offset.
    calls: Mapping[int, int] = field(default_factory=dict)

    def poll(self, _timeout_ms: int) -> Polled:
        """Give the next poll."""
        if len(self.polls) <= 1 + self.polls_after_stop:
            self.stop.set()
        return self.polls.pop(0) if self.polls else ([], {})

    def hold(self, partitions: Collection[tuple[str, int]]) -> None:
        """Note what is not to be fetched."""
        self.held.append(frozenset(partitions))

    def membership(self) -> Any:
        """Give the next answer."""
        return self.memberships.pop(0) if len(self.memberships) > 1 else self.memberships[0]

    def partition_count(self, _topic: str) -> int:
        """Four partitions each."""
        return 4

    def tracker(self, _partition: tuple[str, int]) -> OffsetTracker:
        """Nothing is finished."""
        return OffsetTracker(0, calls=self.calls)


@dataclass
class FakeProducer:
    """Notes what is committed, or raises."""

    error: Exception | None = None
    commits: list[tuple[list[Record], dict[tuple[str, int], tuple[int, str]]]] = field(default_factory=list)

    def commit(
        self, records: Iterable[Record], offsets: Mapping[Any, Any], membership: Any, *, timeout_s: float
    ) -> None:
        """Commit."""
        assert membership == "member"
        assert timeout_s > 0
        if self.error is not None:
            raise self.error
        self.commits.append((list(records), dict(offsets)))


@dataclass
class InstantWork:
    """Completes each message as soon as it is asked, one record each; ``limit`` bounds what it wants."""

    limit: int = 1_000
    value: bytes = b"answer"
    submitted: list[Message] = field(default_factory=list)
    forgotten: list[tuple[str, int]] = field(default_factory=list)
    #: Offsets that ask before they start.
    asking: frozenset[int] = frozenset()
    pausing: Collection[str] = ()
    #: Where their answers go.
    topics: Sequence[str] = ("t.out",)
    started: list[int] = field(default_factory=list)
    #: How often calls were begun before, by offset, as it was told.
    earlier: dict[int, int] = field(default_factory=dict)
    refused: list[tuple[int, str]] = field(default_factory=list)
    #: Offsets that do not begin after all, once they were started.
    withdrawing: frozenset[int] = frozenset()
    #: So many calls of ``completed`` find nothing.
    asleep: int = 0

    @property
    def in_flight(self) -> int:
        """What was submitted and not handed over."""
        return len(self.submitted)

    @property
    def room(self) -> int:
        """What is left of the limit."""
        return self.limit - len(self.submitted)

    @property
    def paused(self) -> Collection[str]:
        """What it is told."""
        return self.pausing

    @property
    def under_way(self) -> int:
        """All of them."""
        return len(self.submitted)

    def submit(self, messages: Sequence[Message], earlier: Sequence[int] = ()) -> None:
        """Take messages."""
        self.submitted += messages
        self.earlier.update(zip((one.offset for one in messages), earlier, strict=True))

    def starting(self) -> list[Starting]:
        """Give those that ask to start, once."""
        asking = [one for one in self.submitted if one.offset in self.asking]
        self.asking = self.asking - {one.offset for one in asking}
        return [Starting(message=one, topics=self.topics) for one in asking]

    def start(self, grants: Sequence[Grant]) -> None:
        """Note what may start, and what may not."""
        self.started += [one.message.offset for one in grants if one.missing is None]
        self.refused += [(one.message.offset, one.missing) for one in grants if one.missing is not None]

    def withdrawn(self) -> list[Message]:
        """Give those that do not begin after all, once."""
        back = [one for one in self.submitted if one.offset in self.withdrawing.intersection(self.started)]
        self.withdrawing -= {one.offset for one in back}
        return back

    def completed(self, _wait_s: float = 0.0) -> list[Completion]:
        """Complete everything."""
        if self.asleep:
            self.asleep -= 1
            return []
        done, self.submitted = self.submitted, []
        return [
            Completion(message=one, records=[Record(topic="t.out", key=b"k", value=self.value)])
            for one in done
        ]

    def forget(self, partitions: Collection[tuple[str, int]]) -> None:
        """Drop what belongs to these."""
        self.forgotten += partitions
        self.submitted = [one for one in self.submitted if (one.topic, one.partition) not in partitions]

    def close(self) -> None:
        """Nothing to let go of."""


class AllTopics:
    """A directory in which every topic exists but those called lost."""

    def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """A million bytes each."""
        return {topic: 20_000_000 for topic in topics if topic != "t.lost"}


@dataclass
class Bench:
    """A session with fakes all around."""

    polls: list[Polled]
    memberships: list[Any] = field(default_factory=lambda: ["member"])
    work: InstantWork = field(default_factory=InstantWork)
    error: Exception | None = None
    polls_after_stop: int = 0
    calls: Mapping[int, int] = field(default_factory=dict)
    counters: LoopCounters = field(default_factory=LoopCounters)

    def run(self) -> FakeProducer:
        """Run to the end of the polls."""
        stop = threading.Event()
        self.consumer = FakeConsumer(
            self.polls, stop, self.polls_after_stop, self.memberships, calls=self.calls
        )
        producer = FakeProducer(self.error)
        self.session = Session(
            config=LoopConfig(
                bootstrap="", group_id="g", transactional_id="t", topics=("t.in",), stop_timeout_s=0.2
            ),
            consumer=self.consumer,
            producer=producer,
            deliveries=Deliveries(
                Destinations(AllTopics()), topic_prefix="t.", group="g", observer=self.counters
            ),
            work=self.work,
            observer=self.counters,
            clock=iter(number / 100 for number in range(10**9)).__next__,
        )
        self.session.run(stop)
        return producer


GAIN = Rebalance(gained=frozenset([P0, P1]))


def test_records_and_offsets_go_into_one_commit() -> None:
    """What a turn completes is committed at once: its records, and one past its offsets."""
    bench = Bench([([GAIN], {P0: [message(P0, 0), message(P0, 1)], P1: [message(P1, 4)]})])
    ((records, offsets),) = bench.run().commits

    assert len(records) == 3
    assert offsets == {P0: (2, ""), P1: (5, "")}
    assert bench.session.progressed


def test_an_unstable_member_commits_nothing() -> None:
    """While the group rebalances, completions wait; once it is stable they are committed, once."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0)]}), ([], {}), ([], {}), ([], {})],
        memberships=[None, None, "member"],
    )

    assert [offsets for _, offsets in bench.run().commits] == [{P0: (1, "")}]


def test_what_is_lost_while_completions_wait_is_not_committed() -> None:
    """A completion held over a rebalance that takes its partition is dropped, the other's is committed."""
    bench = Bench(
        [
            ([GAIN], {P0: [message(P0, 0)], P1: [message(P1, 0)]}),
            ([Rebalance(lost=frozenset([P0]))], {}),
            ([], {}),
        ],
        memberships=[None, "member"],
    )

    assert [offsets for _, offsets in bench.run().commits] == [{P1: (1, "")}]
    assert P0 in bench.work.forgotten


def test_a_partition_that_comes_back_starts_afresh() -> None:
    """Lost and won again in one poll: the old completion is not committed, the new delivery is."""
    bench = Bench(
        [
            ([GAIN], {P0: [message(P0, 0)]}),
            ([Rebalance(lost=frozenset([P0])), Rebalance(gained=frozenset([P0]))], {}),
            ([], {P0: [message(P0, 0)]}),
            ([], {}),
        ],
        memberships=[None, "member"],
    )
    producer = bench.run()

    assert [(len(records), offsets) for records, offsets in producer.commits] == [(1, {P0: (1, "")})]


def test_a_busy_work_is_not_fed() -> None:
    """With no room left everything is paused, with room again nothing is."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, offset) for offset in range(5)]}), ([], {}), ([], {}), ([], {})],
        work=InstantWork(limit=2),
    )
    producer = bench.run()

    assert [offsets for _, offsets in producer.commits] == [{P0: (2, "")}, {P0: (4, "")}, {P0: (5, "")}]
    assert bench.consumer.held[:4] == [{P0, P1}, {P0, P1}, frozenset(), frozenset()]


def test_a_large_harvest_is_committed_in_parts() -> None:
    """Completions of 40 MB take several transactions, none of which could outlast its time."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, offset) for offset in range(8)]}), ([], {}), ([], {}), ([], {})],
        work=InstantWork(value=bytes(5_000_000)),
    )

    assert [offsets[P0][0] for _, offsets in bench.run().commits] == [3, 6, 8]


def test_stopping_commits_what_completes_in_time() -> None:
    """What is in flight when told to stop is committed once it completes; new messages are left alone."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0)]}), ([], {}), ([], {P0: [message(P0, 1)]})],
        work=InstantWork(asleep=3),
        polls_after_stop=2,
    )

    assert [offsets for _, offsets in bench.run().commits] == [{P0: (1, "")}]


def test_stopping_does_not_wait_for_what_hangs() -> None:
    """What does not complete within the time is dropped, uncommitted."""
    bench = Bench([([GAIN], {P0: [message(P0, 0)]})], work=InstantWork(asleep=10**9))

    assert bench.run().commits == []
    assert bench.work.in_flight == 1


def test_a_refused_commit_ends_the_session() -> None:
    """The loop is told, and everything in flight is forgotten on its request."""
    bench = Bench([([GAIN], {P0: [message(P0, 0)]})], error=CommitFailedError())
    with pytest.raises(CommitFailedError):
        bench.run()
    bench.session.forget()

    assert not bench.session.progressed
    assert bench.counters.committed_messages == 0
    assert set(bench.work.forgotten) == {P0, P1}


def test_a_call_is_in_the_log_before_it_is_made() -> None:
    """What asks to start is committed as begun, in a transaction of its own if need be, and then started."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0), message(P0, 1)]}), ([], {}), ([], {})],
        work=InstantWork(asking=frozenset([1]), asleep=1),
    )
    (_, begun), (_, finished) = bench.run().commits

    assert begun == {P0: (0, "r2:.AQI")}  # one bit each: 0 not begun, 1 begun (2)
    assert bench.work.started == [1]
    assert finished == {P0: (2, "")}


def test_calls_that_predecessors_began_are_told_with_the_message() -> None:
    """Before anything is begun for it; the log's count rises with what is begun, once."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0), message(P0, 1)]}), ([], {}), ([], {})],
        work=InstantWork(asking=frozenset([1]), asleep=1),
        calls={1: 2},
    )
    (_, begun), _ = bench.run().commits

    assert bench.work.earlier == {0: 0, 1: 2}
    assert begun == {P0: (0, "r2:.AgIC")}  # two bits: 3 begun of the second
    assert dict(bench.counters.repeated_messages) == {"t.in": 1}


def test_a_call_that_is_not_made_is_taken_back() -> None:
    """With the next transaction, which finishes another message: of offset 1 none is begun any more."""
    bench = Bench(
        [
            ([GAIN], {P0: [message(P0, 0), message(P0, 1)]}),
            ([], {}),
            ([], {P0: [message(P0, 2)]}),
        ],
        work=InstantWork(asking=frozenset([1, 2]), withdrawing=frozenset([1]), asleep=10**9),
    )
    (_, begun), (_, other) = bench.run().commits

    assert begun == {P0: (0, "r2:.AQI")}
    assert other == {P0: (0, "r2:.AQQ")}  # one bit each: only the third is begun (4)


class HastyWork(InstantWork):
    """Takes a call back, and asks again, while the session is between its two questions."""

    hasty: bool = True

    def starting(self) -> list[Starting]:
        """Ask, and then take back and ask again."""
        return self._answer(super().starting)

    def withdrawn(self) -> list[Message]:
        """Likewise."""
        return self._answer(super().withdrawn)

    def _answer(self, question: Callable[[], list[Any]]) -> list[Any]:
        found = question()
        if self.started and self.hasty:
            self.hasty, self.withdrawing, self.asking = False, frozenset([0]), frozenset([0])
        return found


def test_a_call_that_is_taken_back_and_begun_anew_was_begun_once() -> None:
    """However the two fall between the session's questions, nobody made the first."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0)]}), ([], {}), ([], {}), ([], {})],
        work=HastyWork(asking=frozenset([0]), asleep=10**9),
    )
    bench.run()

    assert bench.work.started == [0, 0]


def test_what_is_taken_back_at_the_end_has_a_transaction_of_its_own() -> None:
    """Whoever takes over is not told of a call that nobody made."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0), message(P0, 1)]})],
        work=InstantWork(asking=frozenset([1]), withdrawing=frozenset([1]), asleep=10**9),
    )
    (_, begun), (records, other) = bench.run().commits

    assert begun == {P0: (0, "r2:.AQI")}
    assert (records, other) == ([], {P0: (0, "")})


def test_no_call_is_made_by_a_member_that_is_not_stable() -> None:
    """What asks while the group rebalances starts afterwards, unless its partition went."""
    bench = Bench(
        [
            ([GAIN], {P0: [message(P0, 0)], P1: [message(P1, 1)]}),
            ([Rebalance(lost=frozenset([P0]))], {}),
            ([], {}),
        ],
        memberships=[None, "member"],
        work=InstantWork(asking=frozenset([0, 1]), asleep=2),
    )
    bench.run()

    assert bench.work.started == [1]


def test_no_call_is_made_for_an_answer_that_no_topic_takes() -> None:
    """What asks to start with a reply topic that does not exist is refused, and nothing is written."""
    bench = Bench(
        [([GAIN], {P0: [message(P0, 0)]}), ([], {})],
        work=InstantWork(asking=frozenset([0]), asleep=10**9, topics=("t.lost", "t.out")),
    )

    assert bench.run().commits == []
    assert bench.work.refused == [(0, "t.lost")]


def test_the_share_of_a_topic_is_told() -> None:
    """Two of its four partitions are one half; of what is lost nothing is left."""
    bench = Bench([([GAIN], {}), ([], {})])
    bench.run()
    before = dict(bench.counters.shares)
    bench.session.forget()

    assert before == {"t.in": 0.5}
    assert bench.counters.shares == {}


def test_a_paused_topic_is_left_alone() -> None:
    """Nothing of it is handed to the work, and nothing more is fetched."""
    bench = Bench([([GAIN], {P0: [message(P0, 0)]}), ([], {})], work=InstantWork(pausing=("t.in",)))

    assert bench.run().commits == []
    assert bench.consumer.held[0] == {P0}
