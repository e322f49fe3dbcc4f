import pytest

from workers.messages import Message
from workers.transactions.assignment import Assignment
from workers.transactions.offsets import OffsetTracker

P0, P1 = ("in", 0), ("in", 1)


def messages(partition: tuple[str, int], *offsets: int) -> list[Message]:
    """Messages of a partition."""
    return [
        Message(
            topic=partition[0], partition=partition[1], offset=offset, timestamp_ms=0, key=None, value=b""
        )
        for offset in offsets
    ]


def offsets_of(taken: list[Message]) -> list[tuple[int, int]]:
    """Partition and offset of each."""
    return [(message.partition, message.offset) for message in taken]


@pytest.fixture
def assignment() -> Assignment:
    """Two partitions, of which nothing is committed."""
    assignment = Assignment()
    assignment.assign([P0, P1])
    for partition in (P0, P1):
        assignment.resume(partition, OffsetTracker(0))
    return assignment


def test_messages_wait_until_it_is_known_what_is_finished() -> None:
    """Nothing is handed out before the committed offset is known, and then what was finished is skipped."""
    assignment = Assignment()
    assignment.assign([P0])
    assignment.receive(P0, messages(P0, 5, 6, 7, 8))
    before = (assignment.take(10), assignment.unresumed)
    assignment.resume(P0, OffsetTracker(5, [(6, 8)]))

    assert before == ([], (P0,))
    assert offsets_of(assignment.take(10)) == [(0, 5), (0, 8)]
    assert assignment.take_skipped() == {"in": 2}
    assert assignment.take_skipped() == {}
    assert assignment.unresumed == ()


def test_partitions_take_turns(assignment: Assignment) -> None:
    """With room for one at a time, a long backlog of one partition does not starve another."""
    assignment.receive(P0, messages(P0, 0, 1, 2))
    assignment.receive(P1, messages(P1, 0))

    assert offsets_of(assignment.take(1) + assignment.take(1) + assignment.take(1)) == [
        (0, 0),
        (1, 0),
        (0, 1),
    ]
    assert assignment.backlogged == {P0}


def test_a_topic_takes_no_more_than_its_share() -> None:
    """With three per topic, over all its partitions, one that hangs leaves the rest of the room to others."""
    assignment = Assignment()
    hanging, other = ("hangs", 0), ("answers", 0)
    for partition in (hanging, ("hangs", 1), other):
        assignment.assign([partition])
        assignment.resume(partition, OffsetTracker(0))
        assignment.receive(partition, messages(partition, 0, 1))
    taken = [message.topic for message in assignment.take(10, per_topic=3)]

    assert (taken.count("hangs"), taken.count("answers")) == (3, 2)
    assert assignment.take(10, per_topic=3) == []

    assignment.finish(messages(hanging, 0))

    assert len(assignment.take(10, per_topic=3)) == 1


def test_a_full_window_holds_back_its_partition_alone(assignment: Assignment) -> None:
    """A partition whose window is full keeps its backlog, another goes on."""
    assignment.receive(P0, messages(P0, *range(5_000)))
    assignment.receive(P1, messages(P1, 0))
    taken = assignment.take(10_000)

    assert 1_250 < len([message for message in taken if message.partition == 0]) < 1_350
    assert len([message for message in taken if message.partition == 1]) == 1
    assert assignment.backlogged == {P0}


def test_finishing_gives_what_to_commit(assignment: Assignment) -> None:
    """Offset and metadata of the partitions concerned, and of no others."""
    assignment.receive(P0, messages(P0, 0, 1, 2))
    assignment.receive(P1, messages(P1, 0))
    assignment.take(10)

    assert assignment.finish(messages(P0, 1)) == {P0: (0, "r1:AQE")}
    assert assignment.finish(messages(P0, 0, 2)) == {P0: (3, "")}


def test_what_is_revoked_is_forgotten(assignment: Assignment) -> None:
    """Nothing of a revoked partition is in flight or waiting, also when it comes back."""
    assignment.receive(P0, messages(P0, 0, 1))
    (first,) = assignment.take(1)
    assignment.revoke([P0])
    gone = assignment.is_in_flight(first)
    assignment.receive(P0, messages(P0, 2))
    assignment.assign([P0])

    assert not gone
    assert not assignment.is_in_flight(first)
    assert assignment.partitions == {P0, P1}
    assert assignment.backlogged == frozenset()


def test_a_message_that_comes_again_is_not_taken_again(assignment: Assignment) -> None:
    """A message delivered while it is in flight, or after it finished, is passed over."""
    assignment.receive(P0, messages(P0, 0, 1))
    assignment.take(2)
    assignment.finish(messages(P0, 0))
    assignment.receive(P0, messages(P0, 0, 1, 2))

    assert offsets_of(assignment.take(10)) == [(0, 2)]


def test_a_topic_that_hangs_leaves_room_for_the_others() -> None:
    """With two of a topic in flight at most, its backlog takes no more, and another topic's message goes."""
    assignment = Assignment()
    slow, also_slow, quick = ("slow", 0), ("slow", 1), ("quick", 0)
    assignment.assign([slow, also_slow, quick])
    for partition in (slow, also_slow, quick):
        assignment.resume(partition, OffsetTracker(0))
    assignment.receive(slow, messages(slow, 0, 1, 2))
    assignment.receive(also_slow, messages(also_slow, 0, 1))

    first = assignment.take(10, per_topic=2)
    assignment.receive(quick, messages(quick, 0))
    second = assignment.take(10, per_topic=2)
    assignment.finish(first[:1])
    third = assignment.take(10, per_topic=2)

    assert [message.topic for message in first] == ["slow", "slow"]
    assert [message.topic for message in second] == ["quick"]
    assert [message.topic for message in third] == ["slow"]
