"""Reading answers with a bound, while they come: neither a huge body nor one that unpacks to one is kept."""

import re
import zlib
from collections.abc import AsyncIterator
from typing import Protocol

import httpx2
import msgspec

from workers.calls.usage import Usage

#: What a reply can carry.
MAX_ANSWER_BYTES = 3 * 1024 * 1024
#: An answer over the bound is read on so far, without being kept, to learn what it cost.
_DRAIN_BYTES = 64 * 1024 * 1024
_TAIL_BYTES = 16 * 1024
#: zlib reads gzip's and its own format alike with these window bits.
_ANY_FORMAT = 32 + zlib.MAX_WBITS
# Inside a text of JSON the quotes would be escaped.
_USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(\{.*)', re.DOTALL)


class AnswerTooLargeError(Exception):
    """An answer of more than ``MAX_ANSWER_BYTES``."""

    def __init__(self, usage: Usage | None) -> None:
        super().__init__(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        #: What it used, where that stood near its end.
        self.usage = usage


class UnknownEncodingError(Exception):
    """An answer packed in a way that it was not asked for."""


class _Decoder(Protocol):
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...

    @property
    def unconsumed_tail(self) -> bytes: ...


async def bound_body(response: httpx2.Response) -> None:
    """Make reading a response's body stop at the bound, as an event hook of the client.

    Reading raises ``AnswerTooLargeError``, or ``UnknownEncodingError`` for a packed body that is neither gzip
    nor deflate.
    """
    encoding = response.headers.pop("content-encoding", "identity").strip().lower()
    stream = response.stream
    if isinstance(stream, httpx2.AsyncByteStream):
        response.stream = _BoundedBody(stream, encoding)


class _BoundedBody(httpx2.AsyncByteStream):
    """Unpacks and counts."""

    def __init__(self, stream: httpx2.AsyncByteStream, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total, tail = 0, b""
        async for chunk in self._unpacked():
            total += len(chunk)
            if total <= MAX_ANSWER_BYTES:
                yield chunk
            if total > MAX_ANSWER_BYTES - _TAIL_BYTES:
                tail = (tail + chunk)[-_TAIL_BYTES:]
            if total > _DRAIN_BYTES:
                break
        if total > MAX_ANSWER_BYTES:
            raise AnswerTooLargeError(_find_usage(tail))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _unpacked(self) -> AsyncIterator[bytes]:
        if self._encoding in {"identity", ""}:
            async for chunk in self._stream:
                yield chunk
            return
        if self._encoding not in {"gzip", "x-gzip", "deflate"}:
            # What the header says is not quoted: it may be anything, the key included.
            raise UnknownEncodingError("the answer is packed in a way that was not asked for")
        decoder: _Decoder = zlib.decompressobj(_ANY_FORMAT)
        async for chunk in self._stream:
            packed = chunk
            while packed:
                yield decoder.decompress(packed, MAX_ANSWER_BYTES)
                packed = decoder.unconsumed_tail


def _find_usage(tail: bytes) -> Usage | None:
    """Read the usage from the end of a completion of which the beginning was not kept."""
    found = _USAGE.search(tail)
    if found is None:
        return None
    text = found.group(1)
    for end in (index + 1 for index, byte in enumerate(text) if byte == ord("}")):
        try:
            return msgspec.json.decode(text[:end], type=Usage)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return None
