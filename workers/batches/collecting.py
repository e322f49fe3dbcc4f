"""Collects a batch's replies into its files, each line once, whatever dies."""

import os
import struct
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray
from sqlalchemy import Engine

from workers import messages
from workers.batches.entries import UNDONE, refused_entry, reply_entry
from workers.batches.folders import BatchFolder, part
from workers.batches.ingest import Lines
from workers.batches.tally import Tally
from workers.batches.ways import MOST_PAID, Paid, note_paid
from workers.errors import PoisonError, WaitableError
from workers.messages import Message
from workers.settings import Settings
from workers.storage.batches import Batch, Batches
from workers.storage.engine import transaction
from workers.topics import DEFAULT_LANE, LANES
from workers.transactions.dead_letters import CLASS_HEADER

#: Of each entry, in the order of collecting: its row among the good lines, its file, and where it lies there.
ENTRY = np.dtype([("row", "<u4"), ("failed", "u1"), ("at", "<u8"), ("bytes", "<u4")])
_PLACE = struct.Struct("<IBQI")
_MOST_RECORDS = 2_000
#: An LLM that has joined has a topic of dead letters of its own: looked for so often.
_LOOK_S = 10.0
#: Of a batch of which nothing was dispatched.
NOTHING = {"lines": 0, "reserved_usd": "0"}


class Collector:
    """Reads the reply topic of batches, and dead letters, and appends what answers this one to its files.

    The offsets of the replies, the lengths of the files and the sums are one row in Postgres, written after
    the files. Opening cuts the files to the lengths that the row knows and reads on from its offsets: what a
    crash left beyond is written again, the same. A second reply to a line is counted and dropped. The first
    opening, which comes before anything is dispatched, begins at the end of the topic and keeps that.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        folder: BatchFolder,
        lines: Lines,
        reply_topic: str,
        engine: Engine,
        settings: Settings,
    ) -> None:
        self._batch_id = batch.id
        self._lines = lines
        self._engine = engine
        self.tally = Tally.of(batch)
        #: How far dispatching has come, to be kept beside the replies.
        self.dispatched: Mapping[str, Any] = batch.positions.get("dispatched", NOTHING)
        positions = batch.positions
        self._files = tuple(
            _open(path, int(positions.get(name, 0)))
            for name, path in (("output", part(folder.output)), ("errors", part(folder.errors)))
        )
        self._written = _open(folder.written, ENTRY.itemsize * int(positions.get("entries", 0)))
        #: Whether each good line is answered.
        self.answered = _read_answered(self._written, len(lines))
        #: Lines that got an error in place of an answer when the batch came to its end.
        self.undone = int(positions.get("undone", 0))
        #: The status that the batch ends with before all lines are answered, once that is known.
        self.ended_as: str | None = None
        self.paid: deque[Paid] = deque(maxlen=MOST_PAID)
        offsets = positions.get("replies")
        self._reply_topic = reply_topic
        self._letters = f"{settings.topic_prefix}dlq.{LANES[DEFAULT_LANE]}."
        # Lines of which a dead letter was seen: a reply beside it says the same.
        self._dead: set[int] = set()
        self._consumer = _make_consumer(settings)
        self._follow({**(offsets or {}), **positions.get("dead_letters", {})})
        self._looked_at = time.monotonic()
        if offsets is None:
            self._consumer.seek_to_end()
            self.save()

    @property
    def count(self) -> int:
        """How many lines are answered."""
        return self._written.tell() // ENTRY.itemsize

    def collect(self, *, wait_ms: int) -> int:
        """Write what replies there are, waiting so long for the first; give how many lines they answered.

        Raises ``KafkaError``, ``WaitableError``, ``OSError``: throw the collector away and open another.
        """
        before = self.count
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._looked_at = time.monotonic()
            self._follow({_name(place): self._consumer.position(place) for place in self._places()})
        fetched = self._consumer.poll(timeout_ms=wait_ms, max_records=_MOST_RECORDS)
        records = [record for part_records in fetched.values() for record in part_records]
        if not records:
            return 0
        for record in records:
            self._take(record)
        self.save()
        return self.count - before

    def write_undone(self, row: int, entry: bytes) -> None:
        """Write the entry of a line that will get no answer; ``save`` keeps it."""
        self._write(row, entry, failed=True)
        self.undone += 1

    def save(self) -> None:
        """Make what was written last: files first, then the row that knows their lengths."""
        for file in (*self._files, self._written):
            file.flush()
            os.fdatasync(file.fileno())
        output, errors = self._files
        positions = {
            "output": output.tell(),
            "errors": errors.tell(),
            "entries": self.count,
            "undone": self.undone,
            "dispatched": self.dispatched,
            "replies": {
                _name(place): self._consumer.position(place)
                for place in self._places()
                if place.topic == self._reply_topic
            },
            "dead_letters": {
                _name(place): self._consumer.position(place)
                for place in self._places()
                if place.topic != self._reply_topic
            },
        }
        with transaction(self._engine) as session:
            Batches(session).set(self._batch_id, positions=positions, **self.tally.as_columns())

    def close(self) -> None:
        """Let go of files and connection."""
        for file in (*self._files, self._written):
            file.close()
        self._consumer.close()

    def _take(self, record: Any) -> None:  # noqa: ANN401  # kafka publishes no types
        reply = Message(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple((name, value or b"") for name, value in record.headers),
        )
        row = self._find(reply)
        if row is None:
            return  # a line of another batch
        if reply.topic != self._reply_topic:
            self._take_letter(row, reply)
            return
        if row in self._dead:
            return
        number, custom_id = self._lines.number(row), self._lines.custom_id(row)
        try:
            self.tally.add_money(reply, again=bool(self.answered[row]))
            if self.answered[row]:
                self.tally.duplicated += 1
                return
            note_paid(self.paid, row, reply)
            entry, error = reply_entry(self._batch_id, number, custom_id, reply, ended_as=self.ended_as)
        except (PoisonError, msgspec.MsgspecError) as problem:  # no executor of ours wrote it
            self._write_unreadable(row, number, custom_id, problem)
            return
        self.undone += error in UNDONE
        self._write(row, entry, failed=error is not None)

    def _write_unreadable(self, row: int, number: int, custom_id: str, problem: Exception) -> None:
        if not self.answered[row]:
            error = PoisonError("bad_reply", f"the reply cannot be read: {problem}")
            self._write(row, refused_entry(self._batch_id, number, custom_id, error), failed=True)

    def _take_letter(self, row: int, letter: Message) -> None:
        """End a line whose dispatch was given up: no reply will come of it, unless somebody redrives it."""
        if self.answered[row]:
            return
        self._dead.add(row)
        number, custom_id = self._lines.number(row), self._lines.custom_id(row)
        try:
            self.tally.add_money(with_cost(letter), again=False)
            told = PoisonError(
                letter.text_header(CLASS_HEADER) or "dead_letter",
                letter.text_header("__dlq.errors.message") or "the dispatch is a dead letter",
            )
        except (PoisonError, msgspec.MsgspecError) as problem:
            self._write_unreadable(row, number, custom_id, problem)
            return
        self._write(row, refused_entry(self._batch_id, number, custom_id, told), failed=True)

    def _places(self) -> list[TopicPartition]:
        return sorted(self._consumer.assignment())

    def _follow(self, offsets: Mapping[str, int]) -> None:
        """Read the replies and the dead letters of all dispatches from these offsets on, new topics whole.

        Offsets of replies may be named by their partition alone, as they once were.
        """
        topics = sorted(name for name in self._consumer.topics() if name.startswith(self._letters))
        found = {
            TopicPartition(topic, number)
            for topic in (self._reply_topic, *topics)
            for number in self._consumer.partitions_for_topic(topic) or ()
        }
        # A broker may leave a topic out of one answer: where reading it has come to must not be lost by that.
        known = {TopicPartition(topic, int(number)) for topic, _, number in map(_split, offsets) if topic}
        places = found | known | set(self._consumer.assignment())
        if all(place.topic != self._reply_topic for place in places):
            raise WaitableError("Kafka", f"it does not tell of topic {self._reply_topic!r}")
        if places == set(self._consumer.assignment()):
            return
        self._consumer.assign(sorted(places))
        for place in sorted(places):
            at = offsets.get(_name(place))
            if at is None and place.topic == self._reply_topic:
                at = offsets.get(str(place.partition))
            self._consumer.seek(place, int(at or 0))

    def _find(self, reply: Message) -> int | None:
        batch_id, _, number = (reply.key or b"").decode(errors="replace").rpartition(":")
        if batch_id != self._batch_id or not number.isdecimal():
            return None
        return self._lines.find(int(number))

    def _write(self, row: int, entry: bytes, *, failed: bool) -> None:
        file = self._files[failed]
        self._written.write(_PLACE.pack(row, failed, file.tell(), len(entry)))
        file.write(entry)
        self.answered[row] = True
        if failed:
            self.tally.failed += 1
        else:
            self.tally.completed += 1


def _open(path: Path, length: int) -> BinaryIO:
    """Open a file to append to, cut to what is known to be whole."""
    file: BinaryIO = path.open("ab+")
    if file.seek(0, os.SEEK_END) < length:
        file.close()
        raise OSError(f"{path} has lost its end: {length} bytes were there")
    file.truncate(length)
    file.seek(0, os.SEEK_END)
    return file


def _read_answered(written: BinaryIO, count: int) -> NDArray[np.bool_]:
    answered = np.zeros(count, dtype=np.bool_)
    written.seek(0)
    rows = np.frombuffer(written.read(), dtype=ENTRY)["row"]
    answered[rows] = True
    return answered


def with_cost(letter: Message) -> Message:
    """Give a dead letter with what the calls that were made for it cost, as far as that is known."""
    raw = letter.header(messages.CALLS)
    calls = msgspec.json.decode(raw, type=tuple[messages.CallFact, ...]) if raw else ()
    amounts = [(messages.COST_USD, sum(call.cost_usd or 0.0 for call in calls))]
    if letter.header(messages.UNSETTLED_USD) is None:
        amounts.append((messages.UNSETTLED_USD, sum(call.unsettled_usd for call in calls)))
    told = tuple((name, repr(usd).encode()) for name, usd in amounts)
    return replace(letter, headers=(*letter.headers, *told))


def _name(place: TopicPartition) -> str:
    return f"{place.topic}/{place.partition}"


def _split(name: str) -> tuple[str, str, str]:
    return name.rpartition("/")


def _make_consumer(settings: Settings) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap.split(","),
        bootstrap_timeout_ms=3_000,
        group_id=None,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        reconnect_backoff_max_ms=500,
    )
