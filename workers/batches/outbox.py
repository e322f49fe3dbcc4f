"""The way out of a batch: dispatches, with how far the batch has come, in one Kafka transaction."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
from kafka import ConsumerGroupMetadata, KafkaConsumer, TopicPartition

from workers.batches.ways import Position, Step
from workers.messages import Record
from workers.settings import Settings
from workers.transactions import LoopConfig
from workers.transactions.producer import TransactionalProducer

_COMMITTED_MS = 10_000
_PATIENCE_S = 10.0


class _Mark(msgspec.Struct, array_like=True):
    """What stands beside the offset: see ``Position``."""

    reserved_usd: Decimal
    expected_usd: float = 0.0
    largest_usd: float = 0.0


class Outbox:
    """Produces a batch's records together with its position, a committed offset of a group of its own.

    Both become visible together or not at all, so a line is dispatched once, whatever dies. The batch's
    transactional id fences whoever worked on it before. After an error throw it away and open another.
    Raises ``KafkaError``.
    """

    def __init__(self, batch_id: str, reply_topic: str, settings: Settings, *, known: Position) -> None:
        """``known`` is what Postgres says, where the broker has forgotten the offset of a long pause."""
        config = LoopConfig(
            bootstrap=settings.kafka_bootstrap,
            group_id=f"{settings.topic_prefix}batch.{batch_id}",
            transactional_id=f"{settings.topic_prefix}batch.{batch_id}",
            topics=(reply_topic,),
            topic_prefix=settings.topic_prefix,
            transaction_timeout_ms=settings.transaction_timeout_ms,
            metadata_max_age_ms=2_000,
        )
        self._membership = ConsumerGroupMetadata(config.group_id, -1, "", None)
        self._place = (reply_topic, 0)
        self._producer = TransactionalProducer(config)
        try:
            self.position = self._read_position(config) or known
        except BaseException:
            self._producer.close()
            raise

    def commit(self, records: Sequence[Record], *, step: Step) -> None:
        """Produce the records of the next lines."""
        position = self.position.after(step)
        mark = _Mark(position.reserved_usd, position.expected_usd, position.largest_usd)
        self._producer.commit(
            records,
            {self._place: (position.lines, msgspec.json.encode(mark).decode())},
            self._membership,
            timeout_s=_PATIENCE_S,
        )
        self.position = position

    def close(self) -> None:
        """Let go of the connection."""
        self._producer.close()

    def _read_position(self, config: LoopConfig) -> Position | None:
        """Read what is committed; the producer's start has ended whatever was open."""
        consumer = KafkaConsumer(
            bootstrap_servers=config.bootstrap.split(","),
            bootstrap_timeout_ms=config.connect_timeout_ms,
            group_id=config.group_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        try:
            place = TopicPartition(*self._place)
            consumer.assign([place])
            found = consumer.committed(place, metadata=True, timeout_ms=_COMMITTED_MS)
        finally:
            consumer.close()
        if found is None:
            return None
        mark = msgspec.json.decode(found.metadata, type=_Mark)
        return Position(found.offset, mark.reserved_usd, mark.expected_usd, mark.largest_usd)
