"""Reads a file of requests line by line, compressed or not, and never more of it than one line."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from workers.errors import PoisonError, UsageError

_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SKIP_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in the file, or why it cannot be taken."""

    #: From 1, blank lines included.
    number: int
    value: bytes
    problem: PoisonError | None = None


def read_lines(path: Path, *, max_bytes: int) -> Iterator[RawLine]:
    """Yield the lines that are not blank, without their ends.

    gzip and zstd are told by their first bytes. A line of more than ``max_bytes`` is read past in pieces and
    is ``too_large``. Where a compressed file breaks off, or its content does not check, the lines so far stay
    and the last one is ``truncated_file``. UTF-16 is ``wrong_encoding`` in line 1, and no more is read.
    Raises ``UsageError`` where zstd is needed and not installed.
    """
    with ExitStack() as stack:
        file = unpack(stack.enter_context(path.open("rb")), stack)
        number = 0
        while True:
            number += 1
            try:
                value = file.readline(max_bytes + 1)
                if len(value) > max_bytes and not value.endswith(b"\n"):
                    size = len(value) + _skip_line(file)
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


def _skip_line(file: BinaryIO) -> int:
    skipped = 0
    while piece := file.readline(_SKIP_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
