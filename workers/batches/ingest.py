"""From the file that was given to checked lines: the good ones by place, the bad ones with reasons."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.requests import Limits
from workers.batches.entries import refused_entry
from workers.batches.folders import BatchFolder, complete, part
from workers.batches.lines import RawLine, read_lines
from workers.batches.requests import Wishes, make_prompt, read_envelope
from workers.errors import PoisonError
from workers.settings import Settings

#: Of each good line: its number in the file, where custom id and body lie, estimated input tokens, and the
#: row of its limits.
LINE = np.dtype(
    [
        ("number", "<u4"),
        ("at", "<u8"),
        ("id_bytes", "<u2"),
        ("bytes", "<u4"),
        ("tokens", "<f4"),
        ("limits", "<u4"),
    ]
)
#: An envelope around the largest body.
_ENVELOPE_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of checking a file."""

    good: int
    bad: int


class _Writer:
    """Writes good lines and refused ones until all are checked."""

    def __init__(self, folder: BatchFolder, wishes: Wishes, settings: Settings) -> None:
        self._wishes = wishes
        self._settings = settings
        self._lines = part(folder.lines).open("wb")
        self._invalid = part(folder.invalid).open("wb")
        self._rows: list[tuple[int, int, int, int, float, int]] = []
        self._blocks: list[NDArray[np.void]] = []
        self._at = 0
        # 64 bits of a hash: of a million custom ids two collide by chance once in 37 million files.
        self._seen: set[int] = set()
        self._limits: dict[Limits, int] = {}
        self.good = self.bad = 0

    def take(self, line: RawLine) -> None:
        custom_id = None
        try:
            if line.problem is not None:
                raise line.problem
            envelope = read_envelope(line.value)
            custom_id = envelope.custom_id
            self._note_id(custom_id)
            body = bytes(envelope.body)
            prompt = make_prompt(body, line.number, self._wishes, self._settings)
        except PoisonError as error:
            self._invalid.write(refused_entry(self._wishes.batch_id, line.number, custom_id, error))
            self.bad += 1
            return
        raw_id = custom_id.encode()
        limits = self._limits.setdefault(prompt.limits, len(self._limits))
        self._rows.append((line.number, self._at, len(raw_id), len(body), prompt.input_tokens, limits))
        self._lines.write(raw_id)
        self._lines.write(body)
        self._at += len(raw_id) + len(body)
        self.good += 1
        if len(self._rows) >= 65_536:  # noqa: PLR2004  # tuples are ten times their rows
            self._pack()

    def finish(self, folder: BatchFolder) -> None:
        self._pack()
        self._lines.close()
        self._invalid.close()
        part(folder.limits).write_bytes(msgspec.json.encode([_plain(one) for one in self._limits]))
        with part(folder.index).open("wb") as file:
            np.save(file, np.concatenate([np.empty(0, LINE), *self._blocks]), allow_pickle=False)
        for path in (folder.lines, folder.invalid, folder.limits, folder.index):
            complete(path)

    def close(self) -> None:
        self._lines.close()
        self._invalid.close()

    def _note_id(self, custom_id: str) -> None:
        digest = hashlib.blake2b(custom_id.encode(), digest_size=8).digest()
        number = int.from_bytes(digest)
        if number in self._seen:
            raise PoisonError("duplicate_custom_id", "an earlier line has the same custom_id")
        self._seen.add(number)

    def _pack(self) -> None:
        self._blocks.append(np.array(self._rows, dtype=LINE))
        self._rows = []


def ingest(
    source: Path,
    folder: BatchFolder,
    wishes: Wishes,
    settings: Settings,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Ingested:
    """Check each line by itself, and keep what is good; an interrupted run begins anew.

    Memory holds 26 bytes of each good line, its custom id's hash, and the distinct limits. Of lines with the
    same custom id the first is good. Raises ``StoppedError`` soon after ``stopped`` says so.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    writer = _Writer(folder, wishes, settings)
    try:
        for line in read_lines(
            source,
            max_bytes=settings.max_prompt_bytes + _ENVELOPE_BYTES,
            file_bytes=settings.max_batch_bytes,
            stopped=stopped,
        ):
            writer.take(line)
        writer.finish(folder)
    finally:
        writer.close()
    return Ingested(writer.good, writer.bad)


class Lines:
    """The good lines of a batch, by their place among them; 26 bytes of each are in memory."""

    def __init__(self, folder: BatchFolder) -> None:
        index: NDArray[np.void] = np.load(folder.index, allow_pickle=False)
        # Each column by itself: a search in a field of records would copy all of it, for every reply.
        self._numbers = np.ascontiguousarray(index["number"])
        self._at = np.ascontiguousarray(index["at"])
        self._id_bytes = np.ascontiguousarray(index["id_bytes"])
        self._bytes = np.ascontiguousarray(index["bytes"])
        self._tokens = np.ascontiguousarray(index["tokens"])
        self._limit_rows = np.ascontiguousarray(index["limits"])
        self._file = folder.lines.open("rb", buffering=0)
        read: list[Mapping[str, object]] = msgspec.json.decode(folder.limits.read_bytes())
        self._limits = [_read_limits(one) for one in read]

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, row: int) -> int:
        """Give a line's number in the file."""
        return int(self._numbers[row])

    def find(self, number: int) -> int | None:
        """Give the row of the line with this number in the file; ``None`` where there is none."""
        if not len(self) or not 0 <= number <= self._numbers[-1]:
            return None
        # Of the column's type: for a number of another all of the column would be converted, at every reply.
        row = int(self._numbers.searchsorted(self._numbers.dtype.type(number)))
        return row if self._numbers[row] == number else None

    def tokens(self, rows: slice | Sequence[int]) -> NDArray[np.float64]:
        """Give the estimated input tokens of some lines."""
        return self._tokens[rows].astype(np.float64)

    def limits(self, rows: slice | Sequence[int]) -> list[Limits]:
        """Give the limits of some lines, the batch's deadline left out."""
        return [self._limits[number] for number in self._limit_rows[rows].tolist()]

    def custom_id(self, row: int) -> str:
        """Give a line's custom id."""
        return self._read(row, int(self._id_bytes[row])).decode()

    def body(self, row: int) -> bytes:
        """Give a line's body."""
        return self._read(row, int(self._bytes[row]), after=int(self._id_bytes[row]))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self, row: int, size: int, *, after: int = 0) -> bytes:
        raw = os.pread(self._file.fileno(), size, int(self._at[row]) + after)
        if len(raw) != size:
            raise PoisonError("lost_lines", "the file of checked lines is shorter than it was")
        return raw


def _plain(limits: Limits) -> dict[str, object]:
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in asdict(limits).items()
    }


def _read_limits(values: Mapping[str, object]) -> Limits:
    return Limits(
        **{name: frozenset(value) if isinstance(value, list) else value for name, value in values.items()}  # type: ignore[arg-type]
    )
