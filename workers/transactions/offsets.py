"""Which messages of one partition are finished: the offset to commit, and those finished ahead of it."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Self

#: The broker refuses more in an offset commit (``offset.metadata.max.bytes``).
METADATA_LIMIT = 4096

_PREFIX = "r1:"
_PAYLOAD_LIMIT = (METADATA_LIMIT - len(_PREFIX)) * 3 // 4
_LONGEST_VARINT = 10
# In LEB128 a byte holds seven bits; the eighth says that more follow.
_CONTINUED = 0x80

Range = tuple[int, int]


class OffsetTracker:
    """Progress through one partition whose messages may finish in any order; pure, no I/O.

    Offsets are those of *delivered* messages, begun in ascending order. Kafka leaves gaps (transaction
    markers, aborted and compacted records); what was never delivered counts as finished.

    ``position`` is the offset to commit: every delivered message below it is finished. ``metadata()`` goes
    into the same commit and says which later ones are finished too, so that whoever resumes from the commit
    skips exactly those. It never exceeds ``METADATA_LIMIT`` as long as ``begin`` is called only while
    ``room`` is true; how many messages that lets in flight depends on how they may yet scatter, and is about
    1,500. A partition with nothing in flight always has room.

    State is what is in flight, not what is finished: a message that hangs for hours while a million others
    pass costs a few bytes.
    """

    def __init__(self, position: int, finished: Sequence[Range] = ()) -> None:
        # Begun and not finished, ascending. All else in [position, _end) is finished or was never delivered.
        self._unfinished: OrderedDict[int, None] = OrderedDict()
        self._end = position
        # What a predecessor finished at or after _end: [start, stop), ascending, none adjacent.
        self._ahead = deque(finished)
        self._swallow_adjacent()

    @classmethod
    def resume(cls, position: int, metadata: str) -> Self:
        """Take up what ``position`` and ``metadata()`` of a predecessor say.

        Raises ``ValueError`` for metadata that no tracker wrote (another program has used the group).
        """
        return cls(position, _decode(position, metadata))

    @property
    def position(self) -> int:
        """The offset to commit: every delivered message before it is finished."""
        return next(iter(self._unfinished), self._end)

    @property
    def in_flight(self) -> int:
        """How many messages are begun and not finished."""
        return len(self._unfinished)

    @property
    def room(self) -> bool:
        """Whether one more message may be begun, in whatever order those in flight may finish."""
        if self._ahead:
            # Inside the predecessor's window: its own bound, kept then, covers all that can happen here.
            return True
        if not self._unfinished:
            return True
        bound = _payload_bound(len(self._unfinished) + 1, self._end - self.position + 1)
        return bound + _LONGEST_VARINT <= _PAYLOAD_LIMIT

    def is_in_flight(self, offset: int) -> bool:
        """Whether the message is begun and not finished."""
        return offset in self._unfinished

    def is_finished(self, offset: int) -> bool:
        """Whether the message was finished, here or by a predecessor, and must not be begun again."""
        if offset < self._end:
            return offset not in self._unfinished
        for start, stop in self._ahead:
            if offset < stop:
                return start <= offset
        return False

    def begin(self, offset: int) -> None:
        """Note that a delivered message is being processed.

        Raises ``ValueError`` for one that is finished or was passed over: offsets ascend.
        """
        if offset < self._end or self.is_finished(offset):
            raise ValueError(f"offset {offset} cannot be begun: it is in flight, finished or passed over")
        self._unfinished[offset] = None
        self._end = offset + 1
        self._swallow_adjacent()

    def finish(self, offset: int) -> None:
        """Note that a message in flight is finished. Raises ``ValueError`` for one that is not in flight."""
        if offset not in self._unfinished:
            raise ValueError(f"offset {offset} cannot be finished: it is not in flight")
        del self._unfinished[offset]

    def metadata(self) -> str:
        """Say which offsets from ``position`` on are finished; empty if none is.

        ``r1:`` and, in base64url without padding, LEB128 numbers: alternating lengths of unfinished and
        finished runs of offsets, from ``position`` on.
        """
        cursor = self.position
        payload = bytearray()
        for start, stop in self._finished_ranges():
            payload += _varint(start - cursor)
            payload += _varint(stop - start)
            cursor = stop
        return _PREFIX + urlsafe_b64encode(payload).decode().rstrip("=") if payload else ""

    def _finished_ranges(self) -> Iterator[Range]:
        stop = self.position
        for offset in self._unfinished:
            if offset > stop:
                yield stop, offset
            stop = offset + 1
        if self._unfinished and self._end > stop:
            yield stop, self._end
        yield from self._ahead

    def _swallow_adjacent(self) -> None:
        while self._ahead and self._ahead[0][0] <= self._end:
            self._end = max(self._end, self._ahead.popleft()[1])


def _payload_bound(unfinished: int, span: int) -> int:
    """Bound the payload over every order in which ``unfinished`` messages, spread over ``span``, may finish.

    Each finished run follows an unfinished one, so there are at most ``unfinished`` of either kind.
    Unfinished runs cost no more bytes than they hold messages. A finished run costs at most what ``span``
    costs, and one byte more than the first only for each 128 offsets it covers.
    """
    return unfinished + min(unfinished * len(_varint(span)), unfinished + span // 128)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _CONTINUED:
        encoded.append(number % _CONTINUED + _CONTINUED)
        number //= _CONTINUED
    encoded.append(number)
    return bytes(encoded)


def _decode(position: int, metadata: str) -> list[Range]:
    if not metadata:
        return []
    if not metadata.startswith(_PREFIX):
        raise ValueError(f"offset metadata {metadata[:40]!r} was not written by uniroute")
    encoded = metadata.removeprefix(_PREFIX)
    lengths = _varints(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    if len(lengths) % 2 or 0 in lengths:
        raise ValueError(f"offset metadata {metadata[:40]!r} is damaged")
    ranges = []
    cursor = position
    for unfinished, finished in zip(lengths[::2], lengths[1::2], strict=True):
        start = cursor + unfinished
        cursor = start + finished
        ranges.append((start, cursor))
    return ranges


def _varints(payload: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in payload:
        number |= byte % _CONTINUED << shift
        shift += 7
        if byte < _CONTINUED:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError("offset metadata ends inside a number")
    return numbers
