"""The partitions a member owns: what waits there, what is in flight, what to commit; pure, no I/O."""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from workers.messages import Message
from workers.transactions.offsets import OffsetTracker
from workers.transactions.work import Partition, partition_of


@dataclass(slots=True)
class _Owned:
    """One partition. Its tracker is made when its committed offset is known."""

    tracker: OffsetTracker | None = None
    waiting: deque[Message] = field(default_factory=deque)


class Assignment:
    """Hands out each delivered message of the owned partitions once, in order, and says what is finished.

    A message is *waiting* once received, *in flight* once taken, *finished* once its completion is committed.
    What comes from or goes to a partition that is not owned is dropped.
    """

    def __init__(self) -> None:
        self._owned: dict[Partition, _Owned] = {}
        self._skipped: Counter[str] = Counter()

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions owned."""
        return frozenset(self._owned)

    @property
    def backlogged(self) -> frozenset[Partition]:
        """Partitions where messages wait: no more of them should be fetched."""
        return frozenset(partition for partition, owned in self._owned.items() if owned.waiting)

    @property
    def unresumed(self) -> tuple[Partition, ...]:
        """Partitions with messages that must wait until ``resume`` says what is finished already."""
        return tuple(
            partition for partition, owned in self._owned.items() if owned.waiting and owned.tracker is None
        )

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Own these from now on, with nothing known of them."""
        self._owned.update((partition, _Owned()) for partition in partitions)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Own these no longer, and forget all about them."""
        for partition in partitions:
            self._owned.pop(partition, None)

    def resume(self, partition: Partition, tracker: OffsetTracker) -> None:
        """Continue an owned partition from what was committed."""
        self._owned[partition].tracker = tracker

    def receive(self, partition: Partition, messages: Sequence[Message]) -> None:
        """Let delivered messages wait."""
        if partition in self._owned:
            self._owned[partition].waiting.extend(messages)

    def take(
        self, limit: int, *, per_topic: int | None = None, paused: Collection[str] = ()
    ) -> list[Message]:
        """Take at most ``limit`` waiting messages into flight, as many as their partitions have room for.

        Nothing is taken from topics that are ``paused``.

        With ``per_topic``, no topic has more than that in flight: one that hangs leaves room for the others.
        Partitions take turns to be first, so that a full one starves none.
        """
        in_flight: Counter[str] = Counter()
        for (topic, _), owned in self._owned.items():
            in_flight[topic] += owned.tracker.in_flight if owned.tracker is not None else 0
        taken: list[Message] = []
        for partition, owned in tuple(self._owned.items()):
            room = limit - len(taken)
            if per_topic is not None:
                room = min(room, per_topic - in_flight[partition[0]])
            if partition[0] not in paused and owned.waiting and owned.tracker is not None and room > 0:
                some = self._take_from(owned.waiting, owned.tracker, room)
                in_flight[partition[0]] += len(some)
                taken += some
                self._owned[partition] = self._owned.pop(partition)
        return taken

    def take_skipped(self) -> Mapping[str, int]:
        """Count by topic, since the last call, messages passed over because they were finished already."""
        skipped, self._skipped = self._skipped, Counter()
        return skipped

    def is_in_flight(self, message: Message) -> bool:
        """Whether a completion of this message may be committed here."""
        owned = self._owned.get(partition_of(message))
        return owned is not None and owned.tracker is not None and owned.tracker.is_in_flight(message.offset)

    def count_calls(self, messages: Iterable[Message]) -> list[int]:
        """Give how often calls were begun for each of these messages in flight."""
        return [self._tracker(partition_of(message)).calls.get(message.offset, 0) for message in messages]

    def begin_calls(self, messages: Iterable[Message]) -> list[int]:
        """Note that calls are about to be made for messages in flight; give how often each was before."""
        return [self._tracker(partition_of(message)).begin_call(message.offset) for message in messages]

    def withdraw_calls(self, messages: Iterable[Message]) -> None:
        """Note that calls which were begun for messages in flight are not made for now."""
        for message in messages:
            self._tracker(partition_of(message)).withdraw_call(message.offset)

    def finish(
        self, messages: Collection[Message], *, called: Collection[Message] = ()
    ) -> Mapping[Partition, tuple[int, str]]:
        """Note messages in flight as finished; give offset and metadata to commit for their partitions.

        So too for the partitions of ``called``, whose calls were begun or withdrawn since their last commit.
        """
        for message in messages:
            self._tracker(partition_of(message)).finish(message.offset)
        trackers = {
            partition: self._tracker(partition) for partition in map(partition_of, (*messages, *called))
        }
        return {partition: (tracker.position, tracker.metadata()) for partition, tracker in trackers.items()}

    def _tracker(self, partition: Partition) -> OffsetTracker:
        tracker = self._owned[partition].tracker
        if tracker is None:
            raise ValueError(f"partition {partition} has nothing in flight")
        return tracker

    def _take_from(self, waiting: deque[Message], tracker: OffsetTracker, limit: int) -> list[Message]:
        taken: list[Message] = []
        while waiting and len(taken) < limit:
            if tracker.is_finished(waiting[0].offset) or tracker.is_in_flight(waiting[0].offset):
                self._skipped[waiting.popleft().topic] += 1
            elif tracker.room:
                message = waiting.popleft()
                tracker.begin(message.offset)
                taken.append(message)
            else:
                break
        return taken
