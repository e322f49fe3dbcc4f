"""Following a topic: every process reads all of it, from some time on, in no group."""

import threading
import time
from collections.abc import Callable
from typing import Self

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from workers.messages import Message
from workers.transactions.backoff import Backoff
from workers.transactions.consumer import read_message

_POLL_MS = 200
_JOIN_S = 3.0

log = structlog.get_logger(__name__)


class TopicFollower:
    """Tells ``on_message`` of each committed message of a topic, from ``since_s`` seconds ago on.

    On a thread of its own, from ``with`` to its end. Where the broker is away, or the topic is missing, it
    tries again for ever and goes on where it was. A message may be told twice, and one that ``on_message``
    raises at is logged by the type of the error and passed over.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        since_s: float,
        on_message: Callable[[Message], None],
        backoff: Backoff = Backoff(),  # noqa: B008  # a frozen value
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._since_s = since_s
        self._on_message = on_message
        self._backoff = backoff
        self._stop = threading.Event()
        self._positions: dict[TopicPartition, int] = {}
        self._thread = threading.Thread(target=self._run, name=f"follow-{topic}", daemon=True)
        #: Set once all that was there at first has been told.
        self.caught_up = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self._follow()
            except (KafkaError, OSError) as error:
                failures += 1
                log.warning("follower_waits", topic=self._topic, error=type(error).__name__)
                self._stop.wait(self._backoff.delay_s(failures))

    def _follow(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._bootstrap.split(","),
            group_id=None,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_POLL_MS,
            reconnect_backoff_max_ms=500,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        try:
            partitions = self._assign(consumer)
            ends = consumer.end_offsets(partitions)
            while not self._stop.is_set():
                for records in consumer.poll(timeout_ms=_POLL_MS).values():
                    for record in records:
                        self._tell(record)
                self._positions = {one: consumer.position(one) for one in partitions}
                if all(self._positions[one] >= end for one, end in ends.items()):
                    self.caught_up.set()
        finally:
            consumer.close(autocommit=False)

    def _assign(self, consumer: KafkaConsumer) -> list[TopicPartition]:
        numbers = consumer.partitions_for_topic(self._topic)
        if not numbers:
            raise OSError(f"topic {self._topic} does not exist")
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        since_ms = int((time.time() - self._since_s) * 1000)
        found = consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            at = found.get(partition)
            first = ends[partition] if at is None else at.offset
            consumer.seek(partition, min(ends[partition], max(first, self._positions.get(partition, 0))))
        return partitions

    def _tell(self, record: object) -> None:
        try:
            self._on_message(read_message(record))
        except Exception as error:  # noqa: BLE001  # one bad message must not end the following
            log.error(  # noqa: TRY400  # a trace might quote the message
                "follower_error", topic=self._topic, error=type(error).__name__
            )
