"""Membership in a consumer group: messages, rebalances, committed offsets, back-pressure."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import (
    ConsumerGroupMetadata,
    ConsumerRebalanceListener,
    KafkaConsumer,
    TopicPartition,
)
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import CommitFailedError, KafkaTimeoutError
from kafka.structs import MemberState

from workers.errors import UsageError
from workers.messages import Message
from workers.transactions.assignors import LanesAssignor
from workers.transactions.config import LoopConfig
from workers.transactions.header_names import read_any_header_name
from workers.transactions.offsets import OffsetTracker
from workers.transactions.work import Partition

# A partition that becomes fetchable while a fetch without it is under way waits this long at most.
_FETCH_WAIT_MS = 100
# A rebalance waits for members that do not join for as long as a commit may hang, and this. It happens: a
# broker that was killed comes back with members that are no more, and waits for them to the end.
_POLL_MARGIN_MS = 5_000
# While this member is not in the group, a poll has so long to get it there: kafka-python joins no other time.
_JOIN_MS = 500
_COMMITTED_TIMEOUT_MS = 1_000
_CLOSE_MS = 1_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """One step of a rebalance."""

    gained: frozenset[Partition] = frozenset()
    lost: frozenset[Partition] = frozenset()


class GroupConsumer:
    """A member of the group, reading committed messages only and committing nothing by itself.

    Belongs to one thread. Rebalances happen inside ``poll``, and nowhere else: kafka-python applies a new
    assignment, and tells its listener, only while ``poll`` is being called. What is owned, and whether the
    membership is stable, cannot change otherwise, but for the worse: a broker may have thrown the member out
    already, and then refuses what it tries to commit.
    """

    def __init__(self, config: LoopConfig) -> None:
        read_any_header_name()
        self._group_id = config.group_id
        self._member_id: str | None = None
        self._changes = _Changes()
        self._topics_changed = config.topics_changed or (lambda: None)
        self._topics_known = self._topics_changed()
        self._consumer = KafkaConsumer(
            bootstrap_servers=config.bootstrap.split(","),
            client_id=config.transactional_id,
            group_id=config.group_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[
                LanesAssignor(config.leader_of) if config.leader_of else CooperativeStickyAssignor
            ],
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=min(3_000, config.session_timeout_ms // 3),
            max_poll_interval_ms=config.commit_timeout_ms + _POLL_MARGIN_MS,
            max_poll_records=config.max_poll_records,
            metadata_max_age_ms=config.metadata_max_age_ms,
            bootstrap_timeout_ms=config.connect_timeout_ms,
            request_timeout_ms=config.request_timeout_ms,
            reconnect_backoff_max_ms=config.reconnect_backoff_ms,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        if config.pattern:
            self._consumer.subscribe(pattern=config.pattern, listener=self._changes)
        else:
            self._consumer.subscribe(topics=list(config.topics), listener=self._changes)

    def poll(self, timeout_ms: int) -> tuple[Sequence[Rebalance], Mapping[Partition, Sequence[Message]]]:
        """Take part in the group and fetch: first the rebalances to apply, then messages of what is owned.

        Raises ``CommitFailedError`` when the group went on without this member and took it in again as
        another: whatever it thought it owned may have been finished by others since.
        """
        state = self._consumer.group_metadata().state
        if state == MemberState.REBALANCING:
            # A join that outlives its poll is forgotten by kafka-python if a change of topics began it: it
            # believes that there is no need to join any more, and stays unstable for ever. Asked again, and
            # given time, it joins.
            self._consumer._coordinator.request_rejoin()  # noqa: SLF001  # there is no other way to ask
        self._free_parked_records()
        self._look_for_topics()
        # Still stable where a topic came that is to be taken in. A poll of 0 ms does not get to that, and
        # fetches nothing before: under load all would stand still until nothing is in flight any more.
        joining = state != MemberState.STABLE or self._consumer._coordinator.need_rejoin()  # noqa: SLF001
        fetched = self._consumer.poll(timeout_ms=max(timeout_ms, _JOIN_MS) if joining else timeout_ms)
        self._check_identity()
        return self._changes.take(), {
            tuple(partition): [read_message(record) for record in records]
            for partition, records in fetched.items()
        }

    def _look_for_topics(self) -> None:
        """Ask for the cluster's topics at once where new ones may have come; the answer is not waited for."""
        known, self._topics_known = self._topics_known, self._topics_changed()
        if self._topics_known != known:
            self._consumer._client.cluster.request_update()  # noqa: SLF001  # there is no other way to ask

    def _free_parked_records(self) -> None:
        """Let kafka-python 3.0 take up records again that it put aside while their partition was held.

        It does so only where no other records are in line, and takes those of which none is left for some:
        where nothing else is fetched, as after that partition was lost, it stays put aside for ever.
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001  # there is no other way to reach it
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:  # noqa: SLF001
            fetcher._next_partition_records = None  # noqa: SLF001

    def _check_identity(self) -> None:
        """Know this member by the id of its first stable membership.

        The listener is not enough: kafka-python does not tell it of partitions that were lost with a
        membership which expired while a rebalance was under way, and may be given some of them again.
        """
        membership = self.membership()
        if membership is None:
            return
        self._member_id = self._member_id or membership.member_id
        if membership.member_id != self._member_id:
            raise CommitFailedError(f"the group took {self._member_id} in as {membership.member_id}")

    def hold(self, partitions: Collection[Partition]) -> None:
        """Fetch nothing from these of the owned partitions, and from all others."""
        held = {TopicPartition(*partition) for partition in partitions} & self._consumer.assignment()
        paused = self._consumer.paused()
        self._consumer.pause(*(held - paused))
        self._consumer.resume(*(paused - held))

    def membership(self) -> ConsumerGroupMetadata | None:
        """Give what proves to the broker that this member may commit; ``None`` while it is not stable.

        An unstable membership must not be used at all: one without a member id switches the broker's check
        off.
        """
        membership = self._consumer.group_metadata()
        return membership if membership.state == MemberState.STABLE else None

    def partition_count(self, topic: str) -> int:
        """Give the number of a topic's partitions, as the client knows it; at least one."""
        return max(1, len(self._consumer.partitions_for_topic(topic) or ()))

    def tracker(self, partition: Partition) -> OffsetTracker | None:
        """Read what is committed for an owned partition; ``None`` if it cannot be known yet.

        It is not known while a transaction that holds it is neither committed nor aborted. Raises
        ``UsageError`` for offset metadata that is not ours: what it says is finished cannot be guessed.
        """
        topic_partition = TopicPartition(*partition)
        try:
            # kafka-python may keep an answer from an earlier time at which the partition was owned, if nobody
            # waited for it then. The first call uses that up, the second asks.
            self._consumer.committed(topic_partition, timeout_ms=_COMMITTED_TIMEOUT_MS)
            committed = self._consumer.committed(
                topic_partition, metadata=True, timeout_ms=_COMMITTED_TIMEOUT_MS
            )
            ends = self._consumer.end_offsets([topic_partition], timeout_ms=_COMMITTED_TIMEOUT_MS)
        except KafkaTimeoutError:
            return None
        if committed is None:
            return OffsetTracker(0)
        if committed.offset > ends[topic_partition]:
            # The log was cut or made anew, and is read from its beginning: better twice than not at all.
            log.error("log_ends_before_commit", partition=partition, committed=committed.offset)
            return OffsetTracker(0)
        try:
            return OffsetTracker.resume(committed.offset, committed.metadata)
        except ValueError as error:
            raise UsageError(
                f"another program has committed offsets for group {self._group_id} at partition "
                f"{partition[1]} of {partition[0]} ({error}): set them anew with kafka-consumer-groups "
                "--reset-offsets, or choose another UNIROUTE_TOPIC_PREFIX"
            ) from error

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka publishes no types
    """Notes rebalances for the thread that polls; called from the client's own thread."""

    def __init__(self) -> None:
        self._noted: deque[Rebalance] = deque()

    def take(self) -> Sequence[Rebalance]:
        taken = []
        while self._noted:
            taken.append(self._noted.popleft())
        return taken

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._noted.append(Rebalance(gained=frozenset(map(tuple, assigned))))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._noted.append(Rebalance(lost=frozenset(map(tuple, revoked))))

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)


def read_message(record: Any) -> Message:  # noqa: ANN401  # kafka publishes no types
    """Give a message as the client library consumed it."""
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple((name, value or b"") for name, value in record.headers) if record.headers else (),
    )
