"""Header names that are not UTF-8, as clients in other languages may write them, are read all the same.

kafka-python 3.0 refuses the batch that holds such a name, at each poll anew, so that one message of one
caller would stop its partition for ever. ``read_any_header_name`` mends that, for the whole process: a header
name that is not UTF-8 is read with question marks for what is not ASCII. Keys, values and header values are
untouched.
"""

from typing import Any

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

_FIRST_NOT_ASCII = 128

_read_strictly = DefaultRecordBatch._read_msg  # noqa: SLF001  # there is no public way


def read_any_header_name() -> None:
    """Put the mended reader in place; calling it again changes nothing."""
    DefaultRecordBatch._read_msg = _read_leniently  # noqa: SLF001  # there is no public way


def _read_leniently(batch: Any) -> Any:  # noqa: ANN401  # kafka publishes no types
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        _mend_header_names(batch._buffer, batch._pos)  # noqa: SLF001  # there is no public way
        return _read_strictly(batch)


def _mend_header_names(buffer: bytearray, position: int) -> None:
    """Make the header names of the record at ``position`` readable, without changing their lengths.

    A record is: length, attributes, timestamp delta, offset delta, key, value, number of headers, and name
    and value of each. Numbers are varints; keys, values and names follow their lengths.
    """
    for _ in range(4):
        _, position = decode_varint(buffer, position)
    for _ in range(2):
        length, position = decode_varint(buffer, position)
        position += max(0, length)
    count, position = decode_varint(buffer, position)
    for _ in range(count):
        length, position = decode_varint(buffer, position)
        buffer[position : position + length] = _readable(bytes(buffer[position : position + length]))
        position += length
        length, position = decode_varint(buffer, position)
        position += max(0, length)


def _readable(name: bytes) -> bytes:
    try:
        name.decode()
    except UnicodeDecodeError:
        return bytes(byte if byte < _FIRST_NOT_ASCII else ord("?") for byte in name)
    return name
