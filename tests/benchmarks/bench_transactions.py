"""The loop beside a bare transactional pass-through on the same broker, and its latency when idle."""

import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from exactly_once import create_topics, make_ids, produce
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from workers.messages import Message, Record
from workers.transactions import BatchWork, LoopConfig, TransactionLoop

_VALUE = b"x" * 1_000
_PARTITIONS = 4
_POLL = 2_000
_TIMEOUT_S = 120.0


def run(
    bootstrap: str, *, messages: int = 20_000, rounds: int = 3, idle_messages: int = 100
) -> dict[str, Any]:
    """Measure alternately, so that whatever else the machine does falls on both; rates are medians.

    ``bare_per_s`` is what a pass-through of a page with the same client, batch sizes and transactions of up
    to 2,000 messages reaches, without back-pressure, out-of-order completion, dead letters or recovery.
    ``loop_per_s`` is the loop with a handler that copies. ``ratio`` is the median of the rounds' ratios.
    ``idle`` is measured one message at a time: from ``send`` to the handler, and from the handler's return to
    a read_committed consumer.
    """
    bare, loop = [], []
    for _ in range(rounds):
        prefix = f"{uuid.uuid4().hex[:8]}."
        create_topics(
            bootstrap, {f"{prefix}{name}": {} for name in ("in", "out", "dlq.in")}, partitions=_PARTITIONS
        )
        produce(bootstrap, f"{prefix}in", dict.fromkeys(make_ids(messages), _VALUE))
        bare.append(messages / _time_bare(bootstrap, prefix, messages))
        loop.append(messages / _time_loop(bootstrap, prefix, messages))
    return {
        "messages": messages,
        "bytes_per_message": len(_VALUE),
        "bare_per_s": round(statistics.median(bare)),
        "loop_per_s": round(statistics.median(loop)),
        "ratio": round(statistics.median(ours / theirs for ours, theirs in zip(loop, bare, strict=True)), 3),
        "idle": _measure_idle(bootstrap, idle_messages),
    }


def _time_bare(bootstrap: str, prefix: str, messages: int) -> float:
    """Seconds from the first message polled to the last committed."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=f"{prefix}bare",
        batch_size=256 * 1024,
        retry_backoff_ms=5,
        metrics_enabled=False,
    )
    producer.init_transactions()
    consumer = KafkaConsumer(
        f"{prefix}in",
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}bare",
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        partition_assignment_strategy=[CooperativeStickyAssignor],
        max_poll_records=_POLL,
        metrics_enabled=False,
    )
    done, started = 0, 0.0
    while done < messages:
        fetched = consumer.poll(timeout_ms=500)
        if not fetched:
            continue
        started = started or time.monotonic()
        producer.begin_transaction()
        for records in fetched.values():
            for record in records:
                producer.send(f"{prefix}out", key=record.key, value=record.value)
            done += len(records)
        offsets = {
            partition: OffsetAndMetadata(records[-1].offset + 1, "", -1)
            for partition, records in fetched.items()
        }
        producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
        producer.commit_transaction()
    seconds = time.monotonic() - started
    consumer.close()
    producer.close()
    return seconds


class _Stopwatch:
    """The observer that notes when the first message was consumed and when all were committed."""

    def __init__(self, messages: int) -> None:
        self._left = messages
        self.started = 0.0
        self.ended = 0.0
        self.all_committed = threading.Event()

    def consumed(self, _topic: str, _messages: int) -> None:
        self.started = self.started or time.monotonic()

    def committed(self, messages: int, _records: int, _seconds: float) -> None:
        self._left -= messages
        if not self._left:
            self.ended = time.monotonic()
            self.all_committed.set()

    def skipped(self, *_: object) -> None: ...
    def dead_lettered(self, *_: object) -> None: ...
    def held(self, *_: object) -> None: ...
    def owns(self, *_: object) -> None: ...
    def repeated(self, *_: object) -> None: ...
    def forgotten(self, *_: object) -> None: ...
    def interrupted(self, *_: object) -> None: ...


@contextmanager
def _looping(
    bootstrap: str,
    prefix: str,
    handle: Callable[[Sequence[Message]], Sequence[Sequence[Record]]],
    observer: _Stopwatch,
) -> Iterator[None]:
    config = LoopConfig(
        bootstrap=bootstrap,
        group_id=f"{prefix}loop",
        transactional_id=f"{prefix}loop.0",
        topics=(f"{prefix}in",),
        topic_prefix=prefix,
        max_poll_records=_POLL,
    )
    stop = threading.Event()
    loop = TransactionLoop(config, BatchWork(handle, max_batch=_POLL), observer=observer)
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _time_loop(bootstrap: str, prefix: str, messages: int) -> float:
    """Seconds from the first message polled to the last committed."""

    def copy(batch: Sequence[Message]) -> list[list[Record]]:
        return [[Record(topic=f"{prefix}out", key=done.key, value=done.value)] for done in batch]

    watch = _Stopwatch(messages)
    with _looping(bootstrap, prefix, copy, watch):
        if not watch.all_committed.wait(_TIMEOUT_S):
            raise TimeoutError(f"not all of {messages} messages were committed in {_TIMEOUT_S} s")
    return watch.ended - watch.started


def _measure_idle(bootstrap: str, messages: int) -> dict[str, float]:
    """Milliseconds on an idle system, one message at a time."""
    prefix = f"{uuid.uuid4().hex[:8]}."
    create_topics(
        bootstrap, {f"{prefix}{name}": {} for name in ("in", "out", "dlq.in")}, partitions=_PARTITIONS
    )
    handled_at: list[float] = []

    def copy(batch: Sequence[Message]) -> list[list[Record]]:
        handled_at.append(time.monotonic())
        return [[Record(topic=f"{prefix}out", key=done.key, value=done.value)] for done in batch]

    reader = KafkaConsumer(
        f"{prefix}out",
        bootstrap_servers=bootstrap,
        group_id=None,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=_TIMEOUT_S * 1000,
    )
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    to_handler, to_reader = [], []
    warm_up = 10
    with _looping(bootstrap, prefix, copy, _Stopwatch(messages + warm_up)):
        for key in make_ids(messages + warm_up):
            sent_at = time.monotonic()
            producer.send(f"{prefix}in", key=key, value=_VALUE)
            next(reader)
            to_reader.append((time.monotonic() - handled_at[-1]) * 1000)
            to_handler.append((handled_at[-1] - sent_at) * 1000)
    producer.close()
    reader.close()
    return {
        "to_handler_p50_ms": _percentile(to_handler[warm_up:], 50),
        "to_handler_p99_ms": _percentile(to_handler[warm_up:], 99),
        "to_reader_p50_ms": _percentile(to_reader[warm_up:], 50),
        "to_reader_p99_ms": _percentile(to_reader[warm_up:], 99),
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(sorted(values)[min(len(values) - 1, len(values) * percent // 100)], 1)
