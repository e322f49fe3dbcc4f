"""Proof of exactly-once: workers as processes to be killed and frozen, and a count of what came out.

Used for the loop itself with a pass-through, and for whatever role is to be held to the same promise.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

_STOP_S = 15.0


class WorkerProcess:
    """A worker as an operating-system process; ends with the ``with`` block, whatever state it is in."""

    def __init__(
        self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # our own scripts
                [sys.executable, *arguments],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore", **(environment or {})},
            )

    @property
    def threads(self) -> int:
        """How many threads it has now."""
        return psutil.Process(self._process.pid).num_threads()

    def kill(self) -> None:
        """End it by SIGKILL, in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it where it stands: no heartbeat, no answer."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on as if nothing had happened."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> tuple[int, float]:
        """End it by SIGTERM; give its exit code and the seconds that took."""
        started = time.monotonic()
        self._process.terminate()
        return self._process.wait(_STOP_S), time.monotonic() - started

    def wait(self, *, timeout_s: float) -> int:
        """Wait until it ends by itself; give its exit code."""
        return self._process.wait(timeout_s)

    def said(self, text: str) -> int:
        """Count the lines of its log that contain a text."""
        return sum(text in line for line in self.log.read_text(errors="replace").splitlines())

    def wait_until_said(self, text: str, *, times: int, timeout_s: float) -> None:
        """Wait for lines of its log; ``TimeoutError`` if it ends, or lives on, without saying so."""
        deadline = time.monotonic() + timeout_s
        while self.said(text) < times:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
            if time.monotonic() > deadline or self._process.returncode is not None:
                raise TimeoutError(f"{text!r} was said {self.said(text)} times of {times}: see {self.log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()


class CommittedReader:
    """Reads topics from the beginning as a read_committed consumer outside any group does."""

    def __init__(self, bootstrap: str, topics: Collection[str]) -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
            reconnect_backoff_max_ms=500,
        )
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in self._consumer.partitions_for_topic(topic)
        ]
        self._consumer.assign(self._partitions)
        #: Every record read so far.
        self.records: list[Any] = []

    @property
    def ids(self) -> Counter[bytes]:
        """How often each key was seen."""
        return Counter(record.key for record in self.records)

    def read_until(self, enough: Callable[[Self], bool], *, timeout_s: float) -> None:
        """Read until the caller has enough; ``TimeoutError`` with the count otherwise."""
        deadline = time.monotonic() + timeout_s
        while not enough(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.records)} records of {len(self.ids)} ids in {timeout_s} s")
            self._take(100)

    def read_to_end(self) -> None:
        """Read whatever is committed now."""
        ends = self._consumer.end_offsets(self._partitions)
        while any(self._consumer.position(partition) < end for partition, end in ends.items()):
            self._take(100)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _take(self, timeout_ms: int) -> None:
        for records in self._consumer.poll(timeout_ms=timeout_ms).values():
            self.records.extend(records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Traffic:
    """Produces ids at a steady pace until stopped, so that a test is under load however long it takes."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        per_second: int,
        value: bytes = b"x" * 200,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._per_second = per_second
        self._value = value
        self._headers = list(headers)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: What was produced; complete once stopped.
        self.ids: list[bytes] = []

    def stop(self) -> None:
        """End, with everything acknowledged."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self._bootstrap)
        while not self._stop.wait(0.1):
            for _ in range(self._per_second // 10):
                key = make_id(len(self.ids))
                producer.send(self._topic, key=key, value=self._value, headers=self._headers)
                self.ids.append(key)
        producer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def create_topics(bootstrap: str, topics: Mapping[str, Mapping[str, str]], *, partitions: int = 4) -> None:
    """Create topics with their configs and wait until they have leaders."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics(
        {
            name: {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs)}
            for name, configs in topics.items()
        },
        wait_for_metadata=True,
    )
    admin.close()


def produce(
    bootstrap: str,
    topic: str,
    values: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]],
    *,
    headers: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Produce values by key and wait until all are acknowledged."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, max_request_size=8 * 1024 * 1024)
    pairs = values.items() if isinstance(values, Mapping) else values
    acknowledgements = [
        producer.send(topic, key=key, value=value, headers=list(headers)) for key, value in pairs
    ]
    for acknowledgement in acknowledgements:
        acknowledgement.get(30)
    producer.close()


def make_ids(count: int) -> list[bytes]:
    """Distinct ids, in order."""
    return [make_id(number) for number in range(count)]


def make_id(number: int) -> bytes:
    """The id of a number."""
    return b"id-%06d" % number
