"""A transactional producer none of whose calls outlasts its deadline, and which can be stopped any time."""

import time
from collections.abc import Iterable, Mapping

from kafka import ConsumerGroupMetadata, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from workers.messages import Record
from workers.transactions.config import LoopConfig
from workers.transactions.destinations import LARGEST_RECORD
from workers.transactions.work import Partition

# One request per partition and leader is in flight, so this bounds what a round trip carries.
_BATCH_BYTES = 256 * 1024
# The broker asks to try again while it still writes the markers of the previous transaction: a few ms.
_RETRY_BACKOFF_MS = 5
_KILL_S = 1.0


class TransactionalProducer:
    """Commits records and consumer offsets together or not at all.

    Starting one aborts what an earlier producer of the same transactional id left open, and fences it. After
    the first error it must be thrown away: kafka-python keeps the offsets of an aborted transaction and would
    send them with the next one.
    """

    def __init__(self, config: LoopConfig) -> None:
        self._producer = _StoppableProducer(
            bootstrap_servers=config.bootstrap.split(","),
            client_id=config.transactional_id,
            transactional_id=config.transactional_id,
            transaction_timeout_ms=config.transaction_timeout_ms,
            bootstrap_timeout_ms=config.connect_timeout_ms,
            request_timeout_ms=config.request_timeout_ms,
            max_block_ms=config.commit_timeout_ms,
            reconnect_backoff_max_ms=config.reconnect_backoff_ms,
            metadata_max_age_ms=config.metadata_max_age_ms,
            retry_backoff_ms=_RETRY_BACKOFF_MS,
            batch_size=_BATCH_BYTES,
            max_request_size=LARGEST_RECORD,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        try:
            self._producer.init_transactions()
        except KafkaError:
            self._producer.kill()
            raise

    def commit(
        self,
        records: Iterable[Record],
        offsets: Mapping[Partition, tuple[int, str]],
        membership: ConsumerGroupMetadata,
        *,
        timeout_s: float,
    ) -> None:
        """Commit one transaction, or raise ``KafkaError``; after a timeout its outcome is not known.

        Every record is seen to be acknowledged before the commit is asked for, because kafka-python commits a
        transaction of which a batch has expired, or was dropped by a change of epoch, as if nothing were
        amiss.
        """
        deadline = time.monotonic() + timeout_s
        self._producer.begin_transaction()
        acknowledgements = [
            self._producer.send(
                record.topic, key=record.key, value=record.value, headers=list(record.headers)
            )
            for record in records
        ]
        for acknowledgement in acknowledgements:
            acknowledgement.get(timeout=max(0.0, deadline - time.monotonic()))
        self._producer.send_offsets_until(
            {
                TopicPartition(*partition): OffsetAndMetadata(offset, metadata, -1)
                for partition, (offset, metadata) in offsets.items()
            },
            membership,
            deadline,
        )
        self._producer.commit_until(deadline)

    def close(self) -> None:
        """Let go of threads and connections; a transaction left open is aborted by the next producer."""
        self._producer.kill()


class _StoppableProducer(KafkaProducer):  # type: ignore[misc]  # kafka publishes no types
    """What ``KafkaProducer`` lacks: transactional calls with a deadline, and an end that cannot be refused.

    Its own wait for ever, and its ``close`` raises while records are on their way. Leans on four private
    attributes, which the tests of the loop exercise.
    """

    _closed: bool

    def send_offsets_until(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        membership: ConsumerGroupMetadata,
        deadline: float,
    ) -> None:
        result = self._transaction_manager.send_offsets_to_transaction(offsets, membership)
        self._wait(result, deadline)

    def commit_until(self, deadline: float) -> None:
        self._wait(self._transaction_manager.begin_commit(), deadline)

    def kill(self) -> None:
        if not self._closed:
            self._unregister_cleanup()
            self._sender.force_close()
            self._sender.join(_KILL_S)
            self._closed = True

    def _wait(self, result: object, deadline: float) -> None:
        self._sender.wakeup()
        if not result.wait(timeout_ms=max(0.0, deadline - time.monotonic()) * 1000):  # type: ignore[attr-defined]
            raise KafkaTimeoutError("the transaction did not end in time")
