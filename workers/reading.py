"""Reads topics from outside any group, as an auditor does: committed records alone, none marked as read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition

from workers.settings import Settings

#: Of a reader that goes on: partitions that are added are noticed within this long.
_METADATA_MS = 10_000


def open_reader(settings: Settings, names: Sequence[str], **options: Any) -> KafkaConsumer:  # noqa: ANN401
    """Read whole topics from their beginning, committed records alone, in no group.

    ``options`` are kafka-python's.
    """
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap.split(","),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
        **options,
    )
    consumer.assign(_partitions(consumer, names))
    consumer.seek_to_beginning()
    return consumer


class NewRecords:
    """Reads whole topics, committed records alone, from now on, in no group; a context manager.

    It joins nothing and so waits for nobody. Partitions that are added later are read from their beginning.
    """

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self._names = names
        self._consumer = open_reader(settings, names, metadata_max_age_ms=_METADATA_MS)
        for partition, end in self._consumer.end_offsets(self._consumer.assignment()).items():
            self._consumer.seek(partition, end)  # now, not at the first poll

    def poll(self, *, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Any]]:
        """Give the records that came, after at most ``timeout_ms``."""
        known = self._consumer.assignment()
        added = set(_partitions(self._consumer, self._names)) - known
        if added:
            at = {partition: self._consumer.position(partition) for partition in known}
            self._consumer.assign([*known, *added])
            self._consumer.seek_to_beginning(*added)
            for partition, offset in at.items():
                self._consumer.seek(partition, offset)
        found: Mapping[TopicPartition, Sequence[Any]] = self._consumer.poll(timeout_ms=timeout_ms)
        return found

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_all(settings: Settings, names: Sequence[str]) -> Iterator[Any]:
    """Yield every committed record that the topics hold now."""
    consumer = open_reader(settings, names)
    try:
        yield from _drain(consumer, consumer.end_offsets(consumer.assignment()))
    finally:
        consumer.close()


def read_last(settings: Settings, name: str, n: int) -> list[Any]:
    """Give the last ``n`` committed records of a topic by time, or all there are, oldest first."""
    consumer = open_reader(settings, [name])
    try:
        ends = consumer.end_offsets(consumer.assignment())
        for partition, end in ends.items():
            # Markers of transactions take offsets too, one or two per record at worst.
            consumer.seek(partition, max(consumer.beginning_offsets([partition])[partition], end - 3 * n))
        records = list(_drain(consumer, ends))
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.timestamp, record.partition, record.offset))[-n:]


def read_since(settings: Settings, name: str, since: datetime | None) -> Iterator[Any]:
    """Yield every committed record that a topic was given at ``since`` or later, up to now."""
    consumer = open_reader(settings, [name])
    try:
        ends = consumer.end_offsets(consumer.assignment())
        if since is not None:
            begin = math.floor(since.timestamp() * 1000)
            starts = consumer.offsets_for_times(dict.fromkeys(consumer.assignment(), begin))
            for partition, found in starts.items():
                consumer.seek(partition, ends[partition] if found is None else found.offset)
        yield from _drain(consumer, ends)
    finally:
        consumer.close()


def _drain(consumer: KafkaConsumer, ends: Mapping[TopicPartition, int]) -> Iterator[Any]:
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for records in consumer.poll(timeout_ms=500).values():
            yield from records


def _partitions(consumer: KafkaConsumer, names: Sequence[str]) -> list[TopicPartition]:
    return [
        TopicPartition(name, partition)
        for name in names
        for partition in sorted(consumer.partitions_for_topic(name) or ())
    ]
