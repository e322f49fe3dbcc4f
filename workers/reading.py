"""Reads topics from outside any group, as an auditor does: committed records alone, none marked as read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from workers.settings import Settings


def open_reader(settings: Settings, names: Sequence[str]) -> KafkaConsumer:
    """Read whole topics from their beginning, committed records alone, in no group."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap.split(","),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
    )
    partitions = [
        TopicPartition(name, partition)
        for name in names
        for partition in sorted(consumer.partitions_for_topic(name) or ())
    ]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    return consumer


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
