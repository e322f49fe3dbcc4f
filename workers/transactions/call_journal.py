"""Which calls that the log knows of were sent: a process that died may have begun more than it sent."""

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Self

import structlog

from workers.messages import Message
from workers.transactions.work import Partition

#: Digest of the topic, partition, offset, number of the call, whether it was sent.
_MARK = struct.Struct("<QIQBB")
_HEAD_BYTES = 32
#: A longer file is written anew, with only what is in flight.
_LONGEST_BYTES = 4 * 1024 * 1024
#: Linux draws it anew at each start of the machine.
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_Place = tuple[int, int, int]

log = structlog.get_logger(__name__)


class CallJournal:
    """Tells calls that were sent from those that the log was told of and that never left this machine.

    The log is told of a call before it is made, in a transaction with others; a process that dies in between
    leaves calls that the log counts and no LLM has seen. So of each call it is noted here too that the log is
    about to be told, and, right before its first byte goes to the socket, that it is sent. Whoever takes up
    the partition with the same journal takes the unsent ones off the log's count.

    The notes are in a file that outlives the process, but not the machine: after a restart of that, which may
    have lost notes, and where another slot takes over, every call that the log knows of counts as made. So a
    count is never too low. It is too high by calls begun by a worker whose journal is not at hand, and by one
    whose process died between its note and the write to its socket.
    """

    def __init__(self) -> None:
        """Keep the notes in memory alone: for what the process itself forgets and takes up again."""
        self._marks: dict[_Place, tuple[int, bool]] = {}
        self._digests: dict[str, int] = {}
        self._guard = Lock()
        self._lock_file = -1
        self._file = -1
        self._size = 0
        self._path: Path | None = None
        self._head = b""

    @classmethod
    def open(cls, folder: Path, *, name: str, cluster: str) -> Self:
        """Take up what was noted under a name for a cluster; in memory alone where no file can be had.

        That is so while another process holds the file, where the folder cannot be written, and on systems
        that do not tell one start of the machine from the next.
        """
        journal = cls()
        try:
            boot = _BOOT.read_text()
            folder.mkdir(parents=True, exist_ok=True)
            journal._hold(folder / f"{name}.lock")
            journal._head = hashlib.blake2b(f"{boot}{cluster}".encode(), digest_size=_HEAD_BYTES).digest()
            journal._path = folder / f"{name}.calls"
            if journal._path.exists():
                journal._read(journal._path.read_bytes())
            journal._write_anew()
        except OSError as error:
            journal.close()
            log.warning("calls_in_memory_alone", folder=str(folder), problem=str(error))
        return journal

    def asking(self, calls: Iterable[tuple[Message, int]]) -> None:
        """Note that the log is about to be told of calls; each is the so-many-th of its message."""
        with self._guard:
            self._note([(self._place(message), (number, False)) for message, number in calls])

    def sending(self, message: Message, number: int) -> None:
        """Note that a call is about to be sent."""
        with self._guard:
            place = self._place(message)
            if self._marks.get(place) == (number, False):
                self._note([(place, (number, True))])

    def finished(self, messages: Iterable[Message]) -> None:
        """Forget messages that nobody will begin again."""
        with self._guard:
            for message in messages:
                self._marks.pop(self._place(message), None)

    def unsent(self, partition: Partition, *, position: int, counts: Mapping[int, int]) -> list[int]:
        """Give those offsets of a partition among whose calls, as the log counts them, one was not sent.

        What lies before ``position`` is finished, and forgotten.
        """
        digest, number = self._digest(partition[0]), partition[1]
        with self._guard:
            for place in [one for one in self._marks if one[:2] == (digest, number) and one[2] < position]:
                del self._marks[place]
            marks = {at: self._marks.get((digest, number, at), (0, True)) for at in counts}
        return [at for at, (call, sent) in marks.items() if not sent and call <= counts[at]]

    def close(self) -> None:
        """Let go of the file."""
        for name in ("_file", "_lock_file"):
            if (descriptor := getattr(self, name)) >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    def _hold(self, path: Path) -> None:
        self._lock_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _read(self, content: bytes) -> None:
        """Take over the notes of another life, unless another start of the machine or cluster wrote them."""
        if content[:_HEAD_BYTES] != self._head:
            return
        whole = (len(content) - _HEAD_BYTES) // _MARK.size * _MARK.size
        for digest, partition, offset, number, sent in _MARK.iter_unpack(
            content[_HEAD_BYTES : _HEAD_BYTES + whole]
        ):
            self._marks[digest, partition, offset] = (number, bool(sent))

    def _note(self, marks: Sequence[tuple[_Place, tuple[int, bool]]]) -> None:
        raw = b"".join(_MARK.pack(*place, *mark) for place, mark in marks)
        self._marks.update(marks)
        if self._file < 0:
            return
        try:
            os.write(self._file, raw)
            self._size += len(raw)
            if self._size > max(_LONGEST_BYTES, 4 * _MARK.size * len(self._marks)):
                self._write_anew()
        except OSError as error:
            log.warning("calls_in_memory_alone", folder=str(self._path), problem=str(error))
            if self._path is not None:
                self._path.unlink(missing_ok=True)  # it would call unsent what is sent from now on
            self.close()

    def _write_anew(self) -> None:
        if self._path is None:
            return
        draft = self._path.with_suffix(".draft")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        raw = self._head + b"".join(_MARK.pack(*place, *mark) for place, mark in self._marks.items())
        os.write(file, raw)
        draft.replace(self._path)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, len(raw)

    def _place(self, message: Message) -> _Place:
        return self._digest(message.topic), message.partition, message.offset

    def _digest(self, topic: str) -> int:
        if topic not in self._digests:
            self._digests[topic] = int.from_bytes(hashlib.blake2b(topic.encode(), digest_size=8).digest())
        return self._digests[topic]
