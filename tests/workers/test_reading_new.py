"""Records from now on, read outside any group."""

import uuid

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from workers.reading import NewRecords
from workers.settings import Settings

pytestmark = pytest.mark.stack


def read_keys(reader: NewRecords, count: int) -> list[bytes]:
    """Give the keys of the next records: so many, or what came in twenty polls."""
    keys = list[bytes]()
    for _ in range(20):
        keys += [record.key for records in reader.poll(timeout_ms=200).values() for record in records]
        if len(keys) >= count:
            break
    return sorted(keys)


def test_what_comes_from_now_on_is_read_in_partitions_that_are_added_too(kafka_bootstrap: str) -> None:
    """What was there is left alone, and no partition is read twice or missed when one is added."""
    topic, servers = f"new-{uuid.uuid4().hex}", kafka_bootstrap
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics([NewTopic(topic, 2, 1)])
    producer = KafkaProducer(bootstrap_servers=servers)
    producer.send(topic, key=b"before", value=b"", partition=0)
    producer.flush()

    with NewRecords(Settings(kafka_bootstrap=servers), [topic]) as reader:
        producer.send(topic, key=b"a", value=b"", partition=0)
        producer.send(topic, key=b"b", value=b"", partition=1)
        producer.flush()
        first = read_keys(reader, 2)
        admin.create_partitions({topic: 3})
        late = KafkaProducer(bootstrap_servers=servers)
        for partition, key in enumerate((b"c", b"d", b"e")):
            late.send(topic, key=key, value=b"", partition=partition)
        late.close()
        reader._consumer.topics()  # reads the metadata now rather than in ten seconds
        second = read_keys(reader, 3)
    producer.close()
    admin.close()

    assert first == [b"a", b"b"]
    assert second == [b"c", b"d", b"e"]
