"""The local stack: real servers that start, stay at their addresses and leave nothing behind."""

import psycopg
import pytest
from kafka import KafkaAdminClient

from workers.local import LocalStack

pytestmark = pytest.mark.stack


def test_both_servers_answer(stack: LocalStack, kafka_bootstrap: str, database_url: str) -> None:
    """A started stack answers where it says: Kafka on the loopback address, Postgres with that database."""
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    topics = admin.list_topics()
    admin.close()
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT current_database()").fetchone()

    assert isinstance(topics, list)
    assert kafka_bootstrap.startswith("127.0.0.1:")
    assert row is not None
    assert row[0].startswith("test_")
    assert stack.kafka.pid is not None
