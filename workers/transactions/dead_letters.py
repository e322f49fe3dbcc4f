"""Dead letters: the original bytes of a message that could not be processed, and why, in headers.

Header names are those of KIP-1191 (dead-letter queues of share groups), with their text values; what it has
no name for is under ``uniroute-dlq-``:

=============================== ==============================================================
``__dlq.errors.topic``          topic the message was consumed from
``__dlq.errors.partition``      its partition there
``__dlq.errors.offset``         its offset there
``__dlq.errors.group``          the consumer group that gave up on it, where known
``__dlq.errors.delivery.count`` attempts made
``__dlq.errors.message``        one sentence for a person
``uniroute-dlq-class``          one word of a closed set, for programs
``uniroute-dlq-disposition``    ``rejected`` (no retry can mend it) or ``exhausted`` (retries were used up)
``uniroute-dlq-attempts``       as the delivery count, under a name that does not depend on the KIP
``uniroute-dlq-answered``       ``true`` where the caller has had an error reply: it is not redriven
``uniroute-dlq-booked``         ``true`` where what its calls cost is booked: redriven, it has a new bill
``uniroute-dlq-cut``            what did not fit the broker's limit, if anything: ``value 2000000 -> 998877``
=============================== ==============================================================
"""

from workers.messages import Headers, Message, Record
from workers.topics import MAX_RECORD_BYTES, Topics
from workers.transactions.work import Disposition

PARTITION_HEADER = "__dlq.errors.partition"
OFFSET_HEADER = "__dlq.errors.offset"
GROUP_HEADER = "__dlq.errors.group"
CLASS_HEADER = "uniroute-dlq-class"
DISPOSITION_HEADER = "uniroute-dlq-disposition"
ATTEMPTS_HEADER = "uniroute-dlq-attempts"
ANSWERED_HEADER = "uniroute-dlq-answered"
BOOKED_HEADER = "uniroute-dlq-booked"
CUT_HEADER = "uniroute-dlq-cut"

_OWN_PREFIXES = ("__dlq.errors.", "uniroute-dlq-")
_LONGEST_SENTENCE = 500
# A batch of one record: 61 bytes of header, and at most 21 around the record (see the message format).
_BATCH_OVERHEAD = 82
# Lengths of a header's name and value, as varints.
_HEADER_OVERHEAD = 8


def dead_letter(
    message: Message,
    *,
    error_class: str,
    sentence: str,
    attempts: int,
    topic_prefix: str,
    disposition: Disposition = "rejected",
    group: str | None = None,
    limit: int = MAX_RECORD_BYTES,
) -> Record:
    """Make the dead letter of a message: key, value and headers as they came, and why it was given up.

    Goes to ``{prefix}dlq.{topic without prefix}``. What does not fit ``limit`` bytes is cut and named in a
    header: first the end of the value, then the original headers, then the end of the key. A message with
    neither key nor value gets an empty value, because the client library produces no record without either.
    Headers of an earlier dead-lettering of the same message are replaced.
    """
    reasons = [
        ("__dlq.errors.topic", message.topic),
        (PARTITION_HEADER, str(message.partition)),
        (OFFSET_HEADER, str(message.offset)),
        (GROUP_HEADER, group),
        ("__dlq.errors.delivery.count", str(attempts)),
        ("__dlq.errors.message", sentence[:_LONGEST_SENTENCE]),
        (CLASS_HEADER, error_class),
        (DISPOSITION_HEADER, disposition),
        (ATTEMPTS_HEADER, str(attempts)),
    ]
    # The sentence may quote hostile input: lone surrogates must not break the encoder.
    why = tuple((name, text.encode(errors="replace")) for name, text in reasons if text is not None)
    original = tuple(header for header in message.headers if not header[0].startswith(_OWN_PREFIXES))
    letter = Record(
        topic=Topics(topic_prefix).dead_letters(message.topic),
        key=message.key,
        value=b"" if message.key is None and message.value is None else message.value,
        headers=why + original,
    )
    return cut_to_fit(letter, limit=limit)


def record_bytes(record: Record) -> int:
    """Bound the bytes that a record takes in a batch of its own, which is what brokers limit."""
    return (
        _BATCH_OVERHEAD + len(record.key or b"") + len(record.value or b"") + _headers_bytes(record.headers)
    )


def cut_to_fit(record: Record, *, limit: int) -> Record:
    """Give a dead letter as it is if it takes no more than ``limit`` bytes, else shortened, saying so."""
    if record_bytes(record) <= limit:
        return record
    key, value = record.key or b"", record.value or b""
    kept = tuple(header for header in record.headers if header[0].startswith(_OWN_PREFIXES))
    spare = limit - _BATCH_OVERHEAD - _headers_bytes(kept) - _headers_bytes(((CUT_HEADER, bytes(100)),))
    cuts = []
    key_room = max(0, min(len(key), spare))
    spare -= key_room
    if _headers_bytes(record.headers) - _headers_bytes(kept) <= spare:
        spare -= _headers_bytes(record.headers) - _headers_bytes(kept)
        kept = record.headers
    else:
        cuts.append(f"headers {len(record.headers)} -> {len(kept)}")
    value_room = max(0, min(len(value), spare))
    for what, size, fits in (("key", len(key), key_room), ("value", len(value), value_room)):
        if fits < size:
            cuts.append(f"{what} {size} -> {fits}")
    return Record(
        topic=record.topic,
        key=None if record.key is None else key[:key_room],
        value=None if record.value is None else value[:value_room],
        headers=(*kept, (CUT_HEADER, ", ".join(cuts).encode())),
    )


def _headers_bytes(headers: Headers) -> int:
    return sum(_HEADER_OVERHEAD + len(name.encode(errors="replace")) + len(value) for name, value in headers)
