"""Which messages of one partition are finished: the offset to commit, and those finished ahead of it."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

#: The broker refuses more in an offset commit (``offset.metadata.max.bytes``).
METADATA_LIMIT = 4096

_PREFIX = "r1:"
#: With a second part, behind a full stop: how often calls were begun.
_PREFIX_WITH_CALLS = "r2:"
_CALLS_MARK = "."
# Two parts of base64, each rounded up to whole characters.
_PAYLOAD_LIMIT = (METADATA_LIMIT - len(_PREFIX_WITH_CALLS) - len(_CALLS_MARK) - 2) * 3 // 4
# Calls begun are counted in so many bits per unfinished message: up to seven.
_CALL_BITS = 3
_MOST_CALLS = 2**_CALL_BITS - 1
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
    1,280. A partition with nothing in flight always has room.

    ``begin_call`` notes that something is about to be done for a message that a crash will not undo: a call.
    ``metadata()`` says of each unfinished message how often that was, so that a successor knows which calls
    it makes again.

    State is what is in flight, not what is finished: a message that hangs for hours while a million others
    pass costs a few bytes.
    """

    def __init__(
        self, position: int, finished: Sequence[Range] = (), *, calls: Mapping[int, int] | None = None
    ) -> None:
        # Begun and not finished, ascending. All else in [position, _end) is finished or was never delivered.
        self._unfinished: OrderedDict[int, None] = OrderedDict()
        self._end = position
        # What a predecessor finished at or after _end: [start, stop), ascending, none adjacent.
        self._ahead = deque(finished)
        # How often calls were begun for messages that are not finished, by whomever.
        self._calls = dict(calls or {})
        self._swallow_adjacent()

    @classmethod
    def resume(cls, position: int, metadata: str) -> Self:
        """Take up what ``position`` and ``metadata()`` of a predecessor say.

        Raises ``ValueError`` for metadata that no tracker wrote (another program has used the group).
        """
        finished, calls = _decode(position, metadata)
        return cls(position, finished, calls=calls)

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
        self._calls.pop(offset, None)

    def begin_call(self, offset: int) -> int:
        """Note that a call is about to be made for a message in flight; give how often one was before.

        Counts to seven and no further. Raises ``ValueError`` for a message that is not in flight.
        """
        if offset not in self._unfinished:
            raise ValueError(f"no call can be begun for offset {offset}: it is not in flight")
        earlier = self._calls.get(offset, 0)
        self._calls[offset] = min(earlier + 1, _MOST_CALLS)
        return earlier

    @property
    def calls(self) -> Mapping[int, int]:
        """How often calls were begun for messages that are not finished, where that is not never."""
        return self._calls

    def discount_call(self, offset: int) -> None:
        """Note that one of the calls that predecessors began was not made after all.

        Raises ``ValueError`` where none was begun.
        """
        if not self._calls.get(offset, 0):
            raise ValueError(f"no call can be discounted for offset {offset}: none was begun")
        self._calls[offset] -= 1
        if not self._calls[offset]:
            del self._calls[offset]

    def withdraw_call(self, offset: int) -> None:
        """Note that a call that was begun was not made after all, for a message in flight.

        Raises ``ValueError`` for one that is not in flight, or of which no call was begun.
        """
        if offset not in self._unfinished:
            raise ValueError(f"no call can be withdrawn for offset {offset}: it is not in flight")
        self.discount_call(offset)

    def metadata(self) -> str:
        """Say which offsets from ``position`` on are finished, and for which others calls were begun.

        Empty if there are none of either. ``r1:`` and, in base64url without padding, LEB128 numbers:
        alternating lengths of unfinished and finished runs of offsets, from ``position`` on. Where calls were
        begun, ``r2:``, the same, a full stop, and again in base64url: the number of bits per count, then as
        many bitmaps over the unfinished offsets, ascending, the lowest bit of each count first.
        """
        runs, calls = self._encode_runs(), self._encode_calls()
        if calls:
            metadata = f"{_PREFIX_WITH_CALLS}{_base64(runs)}{_CALLS_MARK}{_base64(calls)}"
            if len(metadata) <= METADATA_LIMIT:  # a window that an earlier version filled may leave no space
                return metadata
        return _PREFIX + _base64(runs) if runs else ""

    def _encode_runs(self) -> bytes:
        cursor = self.position
        payload = bytearray()
        for start, stop in self._finished_ranges():
            payload += _varint(start - cursor)
            payload += _varint(stop - start)
            cursor = stop
        return bytes(payload)

    def _encode_calls(self) -> bytes:
        counts = dict(self._indexed_calls())
        if not counts:
            return b""
        bits = max(counts.values()).bit_length()
        size = max(counts) // 8 + 1
        planes = [0] * bits
        for index, count in counts.items():
            for bit in range(bits):
                planes[bit] |= (count >> bit & 1) << index
        return bytes([bits]) + b"".join(plane.to_bytes(size, "little") for plane in planes)

    def _indexed_calls(self) -> Iterator[Range]:
        """Give, for each message with calls begun, which of the unfinished offsets it is, and their number.

        What was passed over since, because it was never delivered again, is left out.
        """
        ranges = self._finished_ranges()
        start, stop = next(ranges, (None, None))
        finished = 0
        for offset in sorted(self._calls):
            while stop is not None and start is not None and stop <= offset:
                finished += stop - start
                start, stop = next(ranges, (None, None))
            if offset >= self.position and (start is None or offset < start):
                yield offset - self.position - finished, self._calls[offset]

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
    costs, and one byte more than the first only for each 128 offsets it covers. To that comes how often
    calls were begun for each.
    """
    runs = unfinished + min(unfinished * len(_varint(span)), unfinished + span // 128)
    return runs + 1 + _CALL_BITS * (unfinished // 8 + 1)


def _base64(payload: bytes) -> str:
    return urlsafe_b64encode(payload).decode().rstrip("=")


def _unbase64(encoded: str) -> bytes:
    return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _CONTINUED:
        encoded.append(number % _CONTINUED + _CONTINUED)
        number //= _CONTINUED
    encoded.append(number)
    return bytes(encoded)


def _decode(position: int, metadata: str) -> tuple[list[Range], dict[int, int]]:
    """Give the finished ranges, and how often calls were begun by offset."""
    if not metadata:
        return [], {}
    prefix, rest = metadata[: len(_PREFIX)], metadata[len(_PREFIX) :]
    runs, mark, calls = rest.partition(_CALLS_MARK)
    if prefix not in {_PREFIX, _PREFIX_WITH_CALLS} or (prefix == _PREFIX_WITH_CALLS) != bool(mark):
        raise ValueError(f"offset metadata {metadata[:40]!r} was not written by uniroute")
    lengths = _varints(_unbase64(runs))
    if len(lengths) % 2 or 0 in lengths:
        raise ValueError(f"offset metadata {metadata[:40]!r} is damaged")
    ranges = []
    cursor = position
    for unfinished, finished in zip(lengths[::2], lengths[1::2], strict=True):
        start = cursor + unfinished
        cursor = start + finished
        ranges.append((start, cursor))
    return ranges, _decode_calls(position, ranges, _unbase64(calls)) if mark else {}


def _decode_calls(position: int, ranges: Sequence[Range], payload: bytes) -> dict[int, int]:
    bits = payload[0] if payload else 0
    if not 0 < bits <= _CALL_BITS or (len(payload) - 1) % bits:
        raise ValueError("offset metadata counts calls in a way that is not ours")
    size = (len(payload) - 1) // bits
    planes = [int.from_bytes(payload[1 + bit * size : 1 + (bit + 1) * size], "little") for bit in range(bits)]
    calls = {}
    offset, ahead = position, deque(ranges)
    for index in range(8 * size):
        while ahead and ahead[0][0] <= offset:
            offset = ahead.popleft()[1]
        count = sum((plane >> index & 1) << bit for bit, plane in enumerate(planes))
        if count:
            calls[offset] = count
        offset += 1
    return calls


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
