import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.transactions.offsets import METADATA_LIMIT, OffsetTracker


def test_position_follows_the_contiguous_finished() -> None:
    """The offset to commit passes a message only when all delivered before it are finished."""
    tracker = OffsetTracker(10)
    for offset in (10, 11, 12):
        tracker.begin(offset)
    positions = []
    for offset in (12, 10, 11):
        tracker.finish(offset)
        positions.append(tracker.position)

    assert positions == [10, 11, 13]


def test_gaps_between_delivered_offsets_hold_nothing_up() -> None:
    """Offsets that were never delivered (markers, aborted records) count as finished."""
    tracker = OffsetTracker(0)
    for offset in (3, 7, 8):
        tracker.begin(offset)
    tracker.finish(3)

    assert tracker.position == 7

    tracker.finish(8)
    tracker.finish(7)

    assert tracker.position == 9
    assert tracker.metadata() == ""


def test_metadata_says_what_is_finished_ahead() -> None:
    """Runs from the position on: unfinished 5-6, finished 7-8, unfinished 9, finished 10 (2, 2, 1, 1)."""
    tracker = OffsetTracker(5)
    for offset in range(5, 11):
        tracker.begin(offset)
    for offset in (7, 8, 10):
        tracker.finish(offset)

    assert tracker.metadata() == "r1:AgIBAQ"  # base64 of bytes 2, 2, 1, 1


def test_a_successor_skips_exactly_what_was_finished() -> None:
    """Resuming from position and metadata tells finished messages from unfinished and new ones."""
    resumed = OffsetTracker.resume(5, "r1:AgIBAQ")

    assert [offset for offset in range(3, 14) if resumed.is_finished(offset)] == [3, 4, 7, 8, 10]


def test_a_successor_passes_over_what_was_finished() -> None:
    """The position jumps over a finished run as soon as what lies before it is finished."""
    resumed = OffsetTracker.resume(5, "r1:AgIBAQ")
    resumed.begin(5)
    resumed.begin(6)
    resumed.finish(5)
    resumed.finish(6)

    assert resumed.position == 9
    assert resumed.metadata() == "r1:AQE"  # 9 unfinished, 10 finished


def test_a_message_that_hangs_for_long_costs_little() -> None:
    """One unfinished message with a million finished after it leaves room and short metadata."""
    tracker = OffsetTracker(0)
    tracker.begin(0)
    for offset in range(1, 1_000_000):
        tracker.begin(offset)
        tracker.finish(offset)

    assert tracker.room
    assert len(tracker.metadata()) < 12
    assert tracker.position == 0


def test_room_ends_where_metadata_could_overflow() -> None:
    """Filled while there is room, then finished in the worst pattern, the metadata still fits."""
    tracker = OffsetTracker(0)
    offset = 0
    while tracker.room:
        tracker.begin(offset)
        offset += 1
    for every_second in range(1, offset, 2):
        tracker.finish(every_second)

    assert 1_250 < offset < 1_350
    assert len(tracker.metadata()) <= METADATA_LIMIT


def test_an_empty_partition_always_has_room() -> None:
    """However far apart offsets are, a partition with nothing in flight takes the next message."""
    tracker = OffsetTracker(0)
    tracker.begin(10**15)
    tracker.finish(10**15)

    assert tracker.room


@pytest.mark.parametrize("offset", [9, 10, 12], ids=["passed over", "in flight", "finished"])
def test_a_message_is_begun_once(offset: int) -> None:
    """Beginning what is passed over, in flight or finished is an error of the caller."""
    tracker = OffsetTracker.resume(10, "r1:AgE")  # 12 is finished
    tracker.begin(10)

    with pytest.raises(ValueError, match="cannot be begun"):
        tracker.begin(offset)


def test_a_message_is_finished_once() -> None:
    """Finishing what is not in flight is an error of the caller."""
    tracker = OffsetTracker(0)
    tracker.begin(0)
    tracker.finish(0)

    with pytest.raises(ValueError, match="not in flight"):
        tracker.finish(0)


@pytest.mark.parametrize(
    "metadata",
    ["from another program", "r1:A", "r1:AQ", "r1:AAE", "r1:gA", "r1:AQGA"],
    ids=["foreign", "not base64", "half a pair", "empty run", "cut number", "cut second number"],
)
def test_metadata_of_others_is_refused(metadata: str) -> None:
    """What no tracker wrote is refused rather than guessed at."""
    with pytest.raises(ValueError, match=r"metadata|base64|padding|characters"):
        OffsetTracker.resume(0, metadata)


def test_a_successor_knows_which_calls_were_begun() -> None:
    """Of 5 to 8, with 6 finished, calls were begun for 7 once and for 8 twice: counts 0, 1, 2."""
    tracker = OffsetTracker(5)
    for offset in range(5, 9):
        tracker.begin(offset)
    tracker.finish(6)
    for offset in (8, 7, 8):
        tracker.begin_call(offset)
    metadata = tracker.metadata()
    resumed = OffsetTracker.resume(5, metadata)
    for offset in (5, 7, 8):
        resumed.begin(offset)

    assert metadata == "r2:AQE.AgIE"  # two bits each: ones 0b010, twos 0b100
    assert [resumed.begin_call(offset) for offset in (5, 7, 8)] == [0, 1, 2]


def test_calls_are_counted_to_seven() -> None:
    """A message that kills whoever calls for it has a count that stays in its three bits."""
    tracker = OffsetTracker(0)
    tracker.begin(0)

    assert [tracker.begin_call(0) for _ in range(10)] == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert OffsetTracker.resume(0, tracker.metadata()).metadata() == tracker.metadata()


class ModelledPartition:
    """A partition with gaps, processed by owners that come and go, beside plain sets and counts.

    ``finished`` is what is finished and ``calls`` how often each offset was called for.
    """

    def __init__(self, seed: int, *, spread: int, messages: int) -> None:
        self._rng = random.Random(seed)
        offset = self._rng.randrange(5)
        self.delivered: list[int] = []
        for _ in range(messages):
            self.delivered.append(offset)
            offset += 1 + (self._rng.randrange(spread) if self._rng.random() < 0.2 else 0)
        self.finished: set[int] = set()
        self.calls: Counter[int] = Counter()
        self.asking: list[int] = []
        self.committed = (0, "")
        self.take_over()

    def take_over(self) -> None:
        """Crash or revocation: a new owner knows what was committed and nothing else."""
        self.tracker = OffsetTracker.resume(*self.committed)
        self.in_flight: list[int] = []
        self.asking = []
        self.unread = [offset for offset in self.delivered if offset >= self.committed[0]]
        self.finished = self.durable()

    def durable(self) -> set[int]:
        """What the committed position and metadata call finished."""
        known = OffsetTracker.resume(*self.committed)
        finished = set()
        for offset in self.delivered:
            if known.is_finished(offset):
                finished.add(offset)
            else:
                known.begin(offset)
        return finished

    def read(self, count: int) -> None:
        """Deliver messages: skip the finished, begin the others while there is room."""
        while count and self.unread:
            offset = self.unread[0]
            assert self.tracker.is_finished(offset) == (offset in self.finished)
            if offset not in self.finished:
                if not self.tracker.room:
                    assert self.in_flight, "a partition with nothing in flight has room"
                    return
                self.tracker.begin(offset)
                self.in_flight.append(offset)
            self.unread.pop(0)
            count -= 1

    def finish(self, count: int) -> None:
        """Finish messages in random order."""
        for _ in range(min(count, len(self.in_flight))):
            offset = self.in_flight.pop(self._rng.randrange(len(self.in_flight)))
            self.tracker.finish(offset)
            self.finished.add(offset)

    def call(self, count: int) -> None:
        """Begin calls in random order; each is made once a commit says so, and never before."""
        for offset in self._rng.sample(self.in_flight, min(count, len(self.in_flight))):
            if offset not in self.asking:
                assert self.tracker.begin_call(offset) == min(7, self.calls[offset])
                self.asking.append(offset)
                self.commit()
                self.calls[offset] += 1

    def commit(self) -> None:
        """Check position and metadata against the set, then make them durable."""
        position, metadata = self.tracker.position, self.tracker.metadata()
        assert len(metadata) <= METADATA_LIMIT
        assert all(offset in self.finished for offset in self.delivered if offset < position)
        unfinished = [offset for offset in self.delivered if offset not in self.finished]
        assert position <= min(unfinished, default=self.delivered[-1] + 1)
        self.committed = (position, metadata)
        assert self.durable() == self.finished


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([1, 3, 5_000, 10**9]),
    steps=st.lists(
        st.tuples(st.sampled_from(["read", "call", "finish", "commit", "crash"]), st.integers(1, 40)),
        max_size=120,
    ),
)
def test_nothing_is_lost_or_done_twice_whoever_dies(
    seed: int, spread: int, steps: list[tuple[str, int]]
) -> None:
    """Random reads, calls, completions, commits and crashes agree with a plain set of finished offsets.

    A successor's count of earlier calls is that of the calls which were made, by whomever, to the last one.
    """
    partition = ModelledPartition(seed, spread=spread, messages=200)
    for step, count in steps:
        match step:
            case "read":
                partition.read(count)
            case "call":
                partition.call(count)
            case "finish":
                partition.finish(count)
            case "commit":
                partition.commit()
            case _:
                partition.take_over()
    while partition.unread or partition.in_flight:
        partition.read(50)
        partition.finish(50)
    partition.commit()

    assert partition.finished == set(partition.delivered)
    assert partition.committed == (partition.delivered[-1] + 1, "")


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([2, 300, 40_000]))
def test_full_windows_fit_over_generations_of_crashes(seed: int, spread: int) -> None:
    """Owners that fill the window to its brim, finish half at random and die never overflow the metadata."""
    rng = random.Random(seed)
    partition = ModelledPartition(seed, spread=spread, messages=12_000)
    for _ in range(5):
        partition.read(12_000)
        partition.finish(rng.randrange(len(partition.in_flight) + 1))
        partition.commit()
        if rng.random() < 0.7:
            partition.take_over()

    assert len(partition.committed[1]) <= METADATA_LIMIT


def test_a_call_that_was_not_made_is_not_counted() -> None:
    """Begun twice and taken back once, it was begun once; taken back again, never."""
    tracker = OffsetTracker(5)
    tracker.begin(5)
    tracker.begin_call(5)
    tracker.begin_call(5)
    tracker.withdraw_call(5)
    successor = OffsetTracker.resume(5, tracker.metadata())
    successor.begin(5)

    assert successor.begin_call(5) == 1
    tracker.withdraw_call(5)
    assert tracker.metadata() == ""
    with pytest.raises(ValueError, match="none was begun"):
        tracker.withdraw_call(5)
