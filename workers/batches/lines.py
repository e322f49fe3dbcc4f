"""Reads a file of requests line by line, compressed or not, and never more of it than one line."""

import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from workers.errors import PoisonError, UsageError

_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SKIP_BYTES = 1024 * 1024
#: Of each good line some 100 bytes are in memory until all are checked.
MOST_LINES = 10_000_000
#: Bytes that are read between two looks at whether to stop; an empty line counts as so many.
_LOOK_BYTES, _LINE_BYTES = 1024 * 1024, 512


class StoppedError(Exception):
    """What was under way was asked to stop."""


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in the file, or why it cannot be taken."""

    #: From 1, blank lines included.
    number: int
    value: bytes
    problem: PoisonError | None = None


class _Reader:
    """Reads pieces of lines, counts their bytes, and looks again and again at whether to stop."""

    def __init__(self, file: BinaryIO, stopped: Callable[[], bool]) -> None:
        self._file = file
        self._stopped = stopped
        self._unlooked = _LOOK_BYTES
        self.bytes = 0

    def read(self, most: int) -> bytes:
        """Read up to the end of the line, ``most`` bytes of it at most; nothing at the end of the file."""
        if self._unlooked >= _LOOK_BYTES:
            self._unlooked = 0
            if self._stopped():
                raise StoppedError
        piece = self._file.readline(most)
        self.bytes += len(piece)
        self._unlooked += len(piece) + _LINE_BYTES
        return piece


def read_lines(
    path: Path,
    *,
    max_bytes: int,
    file_bytes: float = math.inf,
    most_lines: int = MOST_LINES,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[RawLine]:
    """Yield the lines that are not blank, without their ends.

    gzip and zstd are told by their first bytes. A line of more than ``max_bytes`` is read past in pieces and
    is ``too_large``. Where a compressed file breaks off, or its content does not check, the lines so far stay
    and the last one is ``truncated_file``. UTF-16 is ``wrong_encoding`` in line 1, and no more is read.
    No more than ``file_bytes``, unpacked, and ``most_lines`` are read: the line behind them is ``too_large``,
    and no other follows. Raises ``UsageError`` where zstd is needed and not installed, and ``StoppedError``
    soon after ``stopped`` says so.
    """
    with ExitStack() as stack:
        reader = _Reader(unpack(stack.enter_context(path.open("rb")), stack), stopped)
        number = 0
        while True:
            number += 1
            try:
                value = reader.read(max_bytes + 1)
                if value and (reader.bytes > file_bytes or number > most_lines):
                    sentence = _say_end(file_bytes, most_lines)
                    yield RawLine(number, b"", PoisonError("too_large", sentence))
                    return
                if len(value) > max_bytes and not value.endswith(b"\n"):
                    size = len(value) + _skip_line(reader, file_bytes)
                    sentence = f"the line has {size} bytes, at most {max_bytes} are taken"
                    yield RawLine(number, b"", PoisonError("too_large", sentence))
                    continue
            except (EOFError, zlib.error, gzip.BadGzipFile, _zstd_error()) as error:
                sentence = f"the compressed file breaks off or is damaged here: {error}"
                yield RawLine(number, b"", PoisonError("truncated_file", sentence))
                return
            if not value:
                return
            if number == 1:
                if value.startswith(_WIDE_BOMS):
                    sentence = "the file is UTF-16: give UTF-8"
                    yield RawLine(number, b"", PoisonError("wrong_encoding", sentence))
                    return
                value = value.removeprefix(_BOM)
            value = value.strip()
            if value:
                yield RawLine(number, value)


def unpack(raw: BinaryIO, stack: ExitStack) -> BinaryIO:
    """Give what a file holds, unpacked where its first bytes are those of gzip or zstd.

    Raises ``UsageError`` where zstd is needed and not installed.
    """
    head = raw.read(4)
    raw.seek(0)
    if head.startswith(_GZIP):
        return cast(BinaryIO, stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=raw))))
    if head == _ZSTD:
        try:
            import zstandard  # noqa: PLC0415  # only files that need it need it
        except ImportError as error:
            raise UsageError("reading zstd needs zstandard: pip install zstandard") from error
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return cast(BinaryIO, stack.enter_context(io.BufferedReader(reader)))
    return raw


def _zstd_error() -> type[Exception]:
    try:
        import zstandard  # noqa: PLC0415  # as above
    except ImportError:
        return EOFError
    return zstandard.ZstdError


def _say_end(file_bytes: float, most_lines: int) -> str:
    return (
        f"nothing from here on is read: a file has {file_bytes:.0f} bytes, unpacked, and {most_lines} lines "
        "at most; split it, or set UNIROUTE_MAX_BATCH_BYTES"
    )


def _skip_line(reader: _Reader, file_bytes: float) -> int:
    """Read past the rest of a line, or as far as a file may go."""
    skipped = 0
    while reader.bytes <= file_bytes and (piece := reader.read(_SKIP_BYTES)):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
