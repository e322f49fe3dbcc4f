"""What becomes of messages that cannot be processed or answered, on the real broker."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from exactly_once import CommittedReader, create_topics, produce
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import MemberToRemove
from kafka.errors import CommitFailedError

from workers.errors import PoisonError, UsageError
from workers.messages import Message, Record
from workers.transactions import (
    Backoff,
    BatchWork,
    CallWork,
    LoopConfig,
    LoopCounters,
    Start,
    TransactionLoop,
    Work,
)
from workers.transactions.consumer import GroupConsumer

pytestmark = pytest.mark.stack


@pytest.fixture
def config(kafka_bootstrap: str) -> LoopConfig:
    """A loop that consumes ``in`` under a prefix of the test's own."""
    prefix = f"{uuid.uuid4().hex[:8]}."
    return LoopConfig(
        bootstrap=kafka_bootstrap,
        group_id=f"{prefix}settle",
        transactional_id=f"{prefix}settle.0",
        topics=(f"{prefix}in",),
        topic_prefix=prefix,
        session_timeout_ms=6_000,
    )


@contextmanager
def looping(config: LoopConfig, work: Work) -> Iterator[LoopCounters]:
    """Run a loop in a thread; it must end within ten seconds of being told to."""
    counters, stop = LoopCounters(), threading.Event()
    loop = TransactionLoop(config, work, observer=counters, backoff=Backoff(first_s=0.05, longest_s=0.2))
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield counters
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def reader(config: LoopConfig, *names: str) -> CommittedReader:
    """Read topics of the test's own."""
    return CommittedReader(config.bootstrap, [f"{config.topic_prefix}{name}" for name in names])


def seen(count: int) -> Callable[[CommittedReader], bool]:
    """Whether so many records came."""
    return lambda reader: len(reader.records) >= count


def headers_of(record: Any) -> dict[str, str]:
    """Its headers as text."""
    return {name: value.decode() for name, value in record.headers}


def test_what_cannot_be_answered_becomes_a_dead_letter(config: LoopConfig) -> None:
    """Each kind of fault ends as one dead letter of its class, at once, and everything else is answered."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}out": {}, f"{prefix}dlq.in": {}})
    create_topics(config.bootstrap, {f"{prefix}small": {"max.message.bytes": "2000"}})
    faults = {
        b"no topic": "unknown_topic",
        b"illegal topic": "unknown_topic",
        b"too large": "record_too_large",
        b"too large for its topic": "record_too_large",
        b"nothing in it": "invalid_record",
        b"not bytes": "invalid_record",
        b"poison": "not_json",
        b"bug": "handler_error",
    }

    good = Record(topic=f"{prefix}out", key=b"good", value=b"an answer")
    answers = {
        b"no topic": [good, replace(good, topic=f"{prefix}missing")],
        b"illegal topic": [replace(good, topic="no topic has spaces"), good],
        b"too large": [replace(good, value=bytes(9_000_000))],
        b"too large for its topic": [good, replace(good, topic=f"{prefix}small", value=bytes(2_000))],
        b"nothing in it": [replace(good, key=None, value=None)],
        b"not bytes": [replace(good, value="text")],  # type: ignore[arg-type]
    }
    errors = {b"poison": PoisonError("not_json", "not JSON"), b"bug": KeyError("a secret prompt")}

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        for message in batch:
            if message.key in errors:
                raise errors[message.key]
        return [answers.get(message.key or b"", [replace(good, key=message.key)]) for message in batch]

    fine = [b"fine-%d" % number for number in range(200)]
    ids = [*fine[:100], *faults, *fine[100:]]
    produce(config.bootstrap, f"{prefix}in", [(key, b"the value of " + key) for key in ids])
    work = BatchWork(handle, backoff=Backoff(first_s=0.001, longest_s=0.01))
    started = time.monotonic()
    with (
        looping(config, work) as counters,
        reader(config, "out", "small", "dlq.in") as output,
    ):
        output.read_until(seen(len(ids)), timeout_s=30)
        seconds = time.monotonic() - started
    with reader(config, "out", "small", "dlq.in") as output:
        output.read_to_end()
        records = output.records

    letters = {record.key: record for record in records if record.topic == f"{prefix}dlq.in"}
    assert sorted(record.key for record in records) == sorted(ids)
    assert {key: headers_of(letter)["uniroute-dlq-class"] for key, letter in letters.items()} == faults
    assert all(letter.value == b"the value of " + key for key, letter in letters.items())
    assert all("secret" not in str(headers_of(letter)) for letter in letters.values())
    assert counters.interruptions == {}
    assert sum(counters.dead_letters.values()) == len(faults)
    assert counters.committed_messages == len(ids)
    assert seconds < 20


def test_dead_letters_say_where_they_come_from(config: LoopConfig) -> None:
    """The headers are KIP-1191's, and the original's own headers are kept."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}dlq.in": {}}, partitions=1)
    produce(config.bootstrap, f"{prefix}in", {b"first": b"{", b"second": b"["})

    def handle(_batch: Sequence[Message]) -> list[list[Record]]:
        raise PoisonError("not_json", "the value is not JSON")

    with looping(config, BatchWork(handle)), reader(config, "dlq.in") as output:
        output.read_until(seen(2), timeout_s=30)

    assert headers_of(output.records[1]) == {
        "__dlq.errors.topic": f"{prefix}in",
        "__dlq.errors.partition": "0",
        "__dlq.errors.offset": "1",
        "__dlq.errors.group": f"{prefix}settle",
        "__dlq.errors.delivery.count": "1",
        "__dlq.errors.message": "the value is not JSON",
        "uniroute-dlq-class": "not_json",
        "uniroute-dlq-disposition": "rejected",
        "uniroute-dlq-attempts": "1",
    }


def test_a_dead_letter_over_the_limit_is_cut(config: LoopConfig) -> None:
    """A message larger than its dead-letter topic takes arrives shortened, and says so."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}dlq.in": {"max.message.bytes": "5000"}})
    produce(config.bootstrap, f"{prefix}in", {b"key": b"v" * 20_000})

    def handle(_batch: Sequence[Message]) -> list[list[Record]]:
        raise PoisonError("too_large", "the value is too large")

    with looping(config, BatchWork(handle)), reader(config, "dlq.in") as output:
        output.read_until(seen(1), timeout_s=30)

    (letter,) = output.records
    kept = len(letter.value)
    assert 3_500 < kept < 5_000
    assert headers_of(letter)["uniroute-dlq-cut"] == f"value 20000 -> {kept}"
    assert headers_of(letter)["uniroute-dlq-class"] == "too_large"


def test_small_topics_take_many_records_at_once(config: LoopConfig) -> None:
    """Records that fit a topic's limit one by one arrive, though they don't fit together."""
    prefix = config.topic_prefix
    names = {f"{prefix}in": {}, f"{prefix}small": {"max.message.bytes": "3000"}, f"{prefix}dlq.in": {}}
    create_topics(config.bootstrap, names, partitions=1)
    ids = [b"id-%d" % number for number in range(100)]
    produce(config.bootstrap, f"{prefix}in", dict.fromkeys(ids, b"x" * 1_000))

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        return [[Record(topic=f"{prefix}small", key=done.key, value=done.value)] for done in batch]

    with looping(config, BatchWork(handle)), reader(config, "small") as output:
        output.read_until(seen(100), timeout_s=30)

    assert sorted(record.key for record in output.records) == sorted(ids)


def test_a_missing_dead_letter_topic_holds_up_its_messages_alone(config: LoopConfig) -> None:
    """Until somebody creates the topic, poison waits uncommitted while the rest is answered.

    It is tried again each second, and counted each time.
    """
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}out": {}}, partitions=1)
    keys = [b"poison" if number == 3 else b"good-%d" % number for number in range(50)]
    produce(config.bootstrap, f"{prefix}in", [(key, b"value") for key in keys])

    def handle(batch: Sequence[Message]) -> list[list[Record]]:
        if any(message.key == b"poison" for message in batch):
            raise PoisonError("not_json", "the value is not JSON")
        return [[Record(topic=f"{prefix}out", key=done.key, value=done.value)] for done in batch]

    with looping(config, BatchWork(handle)) as counters:
        with reader(config, "out") as output:
            output.read_until(seen(49), timeout_s=30)
        held = dict(counters.held_messages)
        create_topics(config.bootstrap, {f"{prefix}dlq.in": {}}, partitions=1)
        with reader(config, "dlq.in") as letters:
            letters.read_until(seen(1), timeout_s=30)

    assert held.keys() == {f"{prefix}in"}
    assert letters.ids == {b"poison": 1}


def test_a_topic_that_is_created_later_is_found(config: LoopConfig) -> None:
    """A loop that consumes by pattern takes in a topic that comes to exist while it runs."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}out": {}, f"{prefix}dispatch.one": {}}, partitions=2)
    patterned = replace(config, topics=(), pattern=rf"^{prefix}dispatch\..+", metadata_max_age_ms=1_000)

    async def handle(message: Message, _start: Start) -> list[Record]:
        return [Record(topic=f"{prefix}out", key=message.key, value=message.value)]

    with looping(patterned, CallWork(handle, max_in_flight=10)), reader(config, "out") as output:
        produce(config.bootstrap, f"{prefix}dispatch.one", {b"first": b"1"})
        output.read_until(seen(1), timeout_s=30)
        create_topics(config.bootstrap, {f"{prefix}dispatch.two": {}}, partitions=2)
        produce(config.bootstrap, f"{prefix}dispatch.two", {b"second": b"2"})
        output.read_until(seen(2), timeout_s=30)

    assert output.ids == {b"first": 1, b"second": 1}


def test_a_member_taken_in_as_another_knows_it(config: LoopConfig) -> None:
    """Evicted and joined anew, a consumer says so, whatever its client tells of partitions lost and won."""
    create_topics(config.bootstrap, {f"{config.topic_prefix}in": {}}, partitions=1)
    consumer = GroupConsumer(config)
    while consumer.membership() is None:
        consumer.poll(100)
    admin = KafkaAdminClient(bootstrap_servers=config.bootstrap)
    member = MemberToRemove(member_id=consumer.membership().member_id)
    admin.remove_group_members(config.group_id, [member])
    admin.close()

    with pytest.raises(CommitFailedError, match="the group took"):
        poll_for_ever(consumer)
    consumer.close()


def test_what_was_fetched_before_a_hold_is_read_after_it(config: LoopConfig) -> None:
    """Also where the last records that were read since are of another partition.

    kafka-python puts what it has of a held partition aside, and would leave it there for ever.
    """
    topic = f"{config.topic_prefix}in"
    create_topics(config.bootstrap, {topic: {}}, partitions=2)
    producer = KafkaProducer(bootstrap_servers=config.bootstrap, linger_ms=1_000)
    for value in (b"1", b"2"):  # one batch, of which a poll takes one record
        producer.send(topic, value=value, partition=0)
    producer.flush()
    consumer = GroupConsumer(replace(config, max_poll_records=1))
    assert poll_one(consumer) == b"1"
    consumer.hold([(topic, 0)])
    producer.send(topic, value=b"3", partition=1)
    producer.close()
    assert poll_one(consumer) == b"3"
    consumer.hold([])

    assert poll_one(consumer) == b"2"
    consumer.close()


def poll_one(consumer: GroupConsumer) -> bytes | None:
    """Poll until a record comes, a minute at most, and give its value."""
    for _ in range(600):
        _, fetched = consumer.poll(100)
        for messages in fetched.values():
            return messages[0].value
    return None


def poll_for_ever(consumer: GroupConsumer) -> None:
    """Poll until it raises."""
    while True:
        consumer.poll(100)


class HostileName(str):
    """A header name that encodes to bytes which are no UTF-8, as a client in another language may send."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        """Give the bytes as they would be on the wire."""
        return b"\xff\xfename"


def test_a_header_name_that_is_no_text_stops_nothing(config: LoopConfig) -> None:
    """A message whose header name is no UTF-8 is answered like its neighbours, the rest of it intact."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}out": {}, f"{prefix}dlq.in": {}})
    producer = KafkaProducer(bootstrap_servers=config.bootstrap)
    for key, name in ((b"before", "fine"), (b"hostile", HostileName()), (b"after", "späť")):
        producer.send(f"{prefix}in", key=key, value=b"value", headers=[(name, b"\xff"), ("x", b"y")])
    producer.close()

    def copy(batch: Sequence[Message]) -> list[list[Record]]:
        return [
            [Record(topic=f"{prefix}out", key=done.key, value=done.value, headers=done.headers)]
            for done in batch
        ]

    with looping(config, BatchWork(copy)) as counters, reader(config, "out") as output:
        output.read_until(seen(3), timeout_s=30)

    assert {record.key: tuple(record.headers) for record in output.records} == {
        b"before": (("fine", b"\xff"), ("x", b"y")),
        b"hostile": (("??name", b"\xff"), ("x", b"y")),
        b"after": (("späť", b"\xff"), ("x", b"y")),
    }
    assert counters.interruptions == {}


def test_offsets_of_another_program_are_refused(config: LoopConfig) -> None:
    """A group whose offsets another program committed is not guessed at: one sentence, with the fix."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}dlq.in": {}}, partitions=1)
    produce(config.bootstrap, f"{prefix}in", {b"key": b"value"})
    other = KafkaConsumer(bootstrap_servers=config.bootstrap, group_id=config.group_id)
    partition = TopicPartition(f"{prefix}in", 0)
    other.assign([partition])
    other.commit({partition: OffsetAndMetadata(0, "not ours", -1)})
    other.close()
    loop = TransactionLoop(config, BatchWork(lambda batch: [[] for _ in batch]))

    with pytest.raises(UsageError, match=r"another program has committed offsets.*--reset-offsets"):
        loop.run(threading.Event())


def test_a_log_that_was_cut_is_read_from_its_beginning(config: LoopConfig) -> None:
    """Committed offsets beyond the end of the log do not make the loop skip what is written before them."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}out": {}}, partitions=1)
    before = KafkaConsumer(bootstrap_servers=config.bootstrap, group_id=config.group_id)
    partition = TopicPartition(f"{prefix}in", 0)
    before.assign([partition])
    before.commit({partition: OffsetAndMetadata(1_000, "", -1)})
    before.close()
    produce(config.bootstrap, f"{prefix}in", {b"key": b"value"})

    def copy(batch: Sequence[Message]) -> list[list[Record]]:
        return [[Record(topic=f"{prefix}out", key=done.key, value=done.value)] for done in batch]

    with looping(config, BatchWork(copy)), reader(config, "out") as output:
        output.read_until(seen(1), timeout_s=30)

    assert output.ids == {b"key": 1}


def test_stopping_drops_what_hangs_and_leaves_the_group(config: LoopConfig) -> None:
    """A loop whose calls never end stops in time; the next one answers at once, without waiting a session."""
    prefix = config.topic_prefix
    create_topics(config.bootstrap, {f"{prefix}in": {}, f"{prefix}out": {}})
    produce(config.bootstrap, f"{prefix}in", {b"hangs": b"1"})
    entered, gate = threading.Event(), threading.Event()

    def hang(batch: Sequence[Message]) -> list[list[Record]]:
        entered.set()
        gate.wait(60)
        return [[] for _ in batch]

    with looping(replace(config, stop_timeout_s=1.0), BatchWork(hang)):
        entered.wait(30)
        stopped = time.monotonic()
    stop_s = time.monotonic() - stopped

    def copy(batch: Sequence[Message]) -> list[list[Record]]:
        return [[Record(topic=f"{prefix}out", key=done.key, value=done.value)] for done in batch]

    long_session = replace(config, session_timeout_ms=60_000)
    with looping(long_session, BatchWork(copy)), reader(config, "out") as output:
        output.read_until(seen(1), timeout_s=20)
    gate.set()

    assert output.ids == {b"hangs": 1}
    assert stop_s < 6
