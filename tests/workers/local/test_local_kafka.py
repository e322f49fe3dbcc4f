"""The real Kafka: same ports and same records whatever it died of."""

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from workers.errors import UsageError
from workers.local import ports
from workers.local.kafka import Kafka
from workers.local.processes import ServiceError
from workers.settings import Settings
from workers.topics import MAX_RECORD_BYTES, TopicSpec, create_topics

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def own_folder() -> Iterator[Path]:
    """A folder whose path has characters that lists, properties files and shells take apart."""
    with tempfile.TemporaryDirectory(prefix="uniroute-") as short:
        yield Path(short) / "a, 'ünïque' = path"


@pytest.fixture(scope="module")
def started(own_folder: Path) -> Iterator[Kafka]:
    """A Kafka of this module's own, which tests stop and kill."""
    broker = Kafka(own_folder, outlive=False)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own(started: Kafka) -> Kafka:
    """The module's Kafka, up."""
    started.start()
    return started


def write(broker: Kafka, topic: str, value: bytes) -> None:
    """Append a record to a topic of one partition, and wait until the broker has acknowledged it."""
    settings = Settings(kafka_bootstrap=broker.bootstrap)
    create_topics(settings, [TopicSpec(name=topic, partitions=1, retention_ms=3_600_000)])
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=2 * MAX_RECORD_BYTES)
    producer.send(topic, value, partition=0).get(timeout=60)
    producer.close()


def read(broker: Kafka, topic: str) -> bytes:
    """The first record of a topic of one partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=60_000
    )
    consumer.assign([TopicPartition(topic, 0)])
    value: bytes = next(consumer).value
    consumer.close()
    return value


def test_records_survive_a_restart(own: Kafka) -> None:
    """A broker that was stopped comes back on the same port, in another process, with its records."""
    write(own, "kept", b"seven")
    address, pid = own.bootstrap, own.pid

    own.restart()

    assert own.bootstrap == address
    assert own.pid != pid
    assert read(own, "kept") == b"seven"


def test_records_survive_a_kill(own: Kafka) -> None:
    """What the broker had acknowledged before SIGKILL is there after the next start."""
    write(own, "survived", b"eight")

    own.kill()
    away = own.answers()
    own.start()

    assert not away
    assert read(own, "survived") == b"eight"


def test_the_largest_record_fits(own: Kafka) -> None:
    """A record of almost the size that topics declare passes the broker."""
    value = b"x" * (MAX_RECORD_BYTES - 1000)
    write(own, "large", value)

    assert read(own, "large") == value


def test_a_second_start_changes_nothing(own: Kafka) -> None:
    """Starting what is up keeps the process."""
    pid = own.pid

    own.start()

    assert own.pid == pid


def test_only_the_loopback_address_is_served(own: Kafka) -> None:
    """Every port that the broker listens on is bound to 127.0.0.1, and no other."""
    listening = [
        connection.laddr[0]
        for connection in psutil.Process(own.pid).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert len(listening) == 2
    assert {address.removeprefix("::ffff:") for address in listening} == {ports.LOOPBACK}


def test_a_port_taken_meanwhile_is_named_with_its_holder(own: Kafka, own_folder: Path) -> None:
    """If another server took the port while the broker was down, the error says which and what to do."""
    own.stop()
    port = json.loads((own_folder / "ports.json").read_text())["broker"]

    with (
        socket.create_server((ports.LOOPBACK, port)),
        pytest.raises(
            UsageError,
            match=rf"^port {port} of .* is taken by process \d+ \(.*ports\.json to choose new ports$",
        ),
    ):
        own.start()

    assert own.pid is None


def test_new_ports_keep_the_records(own: Kafka, own_folder: Path) -> None:
    """The advice of that error costs no data: without the file of ports the broker chooses others."""
    write(own, "moved", b"nine")
    before = own.bootstrap
    own.stop()
    (own_folder / "ports.json").unlink()

    own.start()

    assert own.bootstrap != before
    assert read(own, "moved") == b"nine"


def test_a_failed_start_quotes_the_log(tmp_path: Path) -> None:
    """Storage that Kafka refuses is an error that says why in Kafka's words."""
    broker = Kafka(tmp_path / "kafka", outlive=False)
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=7\n")

    with pytest.raises(ServiceError, match=r"(?s)^kafka ended .*kafka\.log:\n.*node ?id"):
        broker.start()

    assert broker.pid is None
