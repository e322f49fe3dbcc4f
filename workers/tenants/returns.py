"""Gives back to budgets what routers were lent and did not reserve, and what was reserved for nothing."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from sqlalchemy import Engine

from workers.errors import WaitableError
from workers.settings import Settings
from workers.storage.engine import transaction
from workers.storage.grants import Grants
from workers.storage.ledger import Ledger
from workers.topics import Topics

#: How long after the end of a lease a decision that reserved from it may still be committed: longer than any
#: transaction is open, and than a router holds on to what is decided while its group is rebalanced.
GRACE_S = 60.0
#: Dispatches are kept for 7 days: what was not answered by then never will be.
_WRITE_OFF = timedelta(days=8)
_WRITE_OFF_EVERY_S = 3600.0
_FETCH_WAIT_MS = 200
_CONNECT_MS = 2_000
#: A broker that does not tell within this is asked again another time.
_PATIENCE_S = 5.0

log = structlog.get_logger(__name__)

#: Offsets by partition.
Offsets = Mapping[int, int]


class Progress(Protocol):
    """How far the usage topic is written, and booked."""

    def ends(self) -> Offsets:
        """Give the offsets up to which transactions have ended."""
        ...

    def is_booked(self, ends: Offsets) -> bool:
        """Tell whether every entry before ``ends`` is booked."""
        ...


class TopicProgress:
    """Reads both from the broker; what is booked is what the learners have committed.

    Raises ``WaitableError`` where the broker is away.
    """

    def __init__(self, settings: Settings, *, group_id: str, topic: str | None = None) -> None:
        """``topic`` stands in for the usage topic, ``group_id`` for the learners' group."""
        self._settings = settings
        self._group_id = group_id
        self._topic = topic or Topics(settings.topic_prefix).usage

    def ends(self) -> Offsets:
        """Give the last stable offset of each partition."""
        with self._open() as consumer:
            ends = consumer.end_offsets(list(consumer.assignment()))
            return {partition.partition: offset for partition, offset in ends.items()}

    def is_booked(self, ends: Offsets) -> bool:
        """Look for an entry between what the learners have committed and ``ends``.

        Offsets alone do not tell: the marks of transactions take some too, and nobody commits those.
        """
        with self._open() as consumer:
            behind = {}
            for number, end in ends.items():
                partition = TopicPartition(self._topic, number)
                committed = consumer.committed(partition) or 0
                if committed < end:
                    behind[partition] = end
                    consumer.seek(partition, committed)
            consumer.pause(*(consumer.assignment() - behind.keys()))
            return _find_none(consumer, behind)

    @contextmanager
    def _open(self) -> Iterator[KafkaConsumer]:
        """Open a consumer that reads what the learners' group has committed, and does not join it."""
        try:
            consumer = KafkaConsumer(
                bootstrap_servers=self._settings.kafka_bootstrap.split(","),
                group_id=self._group_id,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                bootstrap_timeout_ms=_CONNECT_MS,
                fetch_max_wait_ms=_FETCH_WAIT_MS,
            )
            try:
                numbers = consumer.partitions_for_topic(self._topic) or ()
                consumer.assign([TopicPartition(self._topic, number) for number in sorted(numbers)])
                yield consumer
            finally:
                consumer.close(autocommit=False)
        except (KafkaError, OSError) as error:
            raise WaitableError("Kafka", f"{type(error).__name__}: {error}") from error


def _find_none(consumer: KafkaConsumer, behind: dict[TopicPartition, int]) -> bool:
    """Tell whether no committed record lies between a partition's position and the offset given for it."""
    patience = time.monotonic() + _PATIENCE_S
    while behind and time.monotonic() < patience:
        for partition, records in consumer.poll(timeout_ms=_FETCH_WAIT_MS).items():
            if any(record.offset < behind.get(partition, 0) for record in records):
                return False
        for partition in [one for one, end in behind.items() if consumer.position(one) >= end]:
            del behind[partition]
            consumer.pause(partition)
    return not behind


@dataclass(frozen=True, slots=True)
class _Mark:
    """A moment, and how far the usage topic was written then."""

    at: datetime
    ends: Offsets


class Returns:
    """Gives back, each time it is asked to, what nobody can draw on any more.

    A grant's rest is released once its lease has been over for ``grace_s`` and every entry that was in the
    usage topic by then is booked: what the grant's decisions took is known to the last one, and the rest was
    never reserved. While the learners lag behind, nothing is released: budgets are short then, never
    overdrawn. Reservations that no executor can settle any more are written off once an hour.
    """

    def __init__(
        self,
        engine: Engine,
        progress: Progress,
        *,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._progress = progress
        self._grace = timedelta(seconds=grace_s)
        self._clock = clock
        self._mark: _Mark | None = None
        self._write_off_at = clock()

    def collect(self) -> int:
        """Give back what can be now, and count the grants; ``WaitableError`` passes through."""
        if self._clock() >= self._write_off_at:
            self._write_off()
        with transaction(self._engine) as session:
            now = Grants(session).now()
            expired = Grants(session).count_expired(before=now - self._grace)
        if not expired:
            self._mark = None
            return 0
        if self._mark is None:
            # The clock is read before the topic: what ends then is all that could be drawn before.
            self._mark = _Mark(now, self._progress.ends())
        mark = self._mark
        if not self._progress.is_booked(mark.ends):
            return 0
        self._mark = None
        with transaction(self._engine) as session:
            return Grants(session).release(before=mark.at - self._grace)

    def run(self, stop: threading.Event, *, interval_s: float = 5.0) -> None:
        """Collect now and then until ``stop`` is set; nothing else ends it."""
        while not stop.wait(interval_s):
            try:
                if count := self.collect():
                    log.info("grants_released", grants=count)
            except WaitableError as error:
                log.warning("grants_wait", problem=str(error))
            except Exception:
                log.exception("grants_not_released")

    def _write_off(self) -> None:
        with transaction(self._engine) as session:
            count = Ledger(session).write_off(before=Grants(session).now() - _WRITE_OFF)
        self._write_off_at = self._clock() + _WRITE_OFF_EVERY_S
        if count:
            log.warning("reservations_written_off", reservations=count)
