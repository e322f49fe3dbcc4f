"""What is produced for a finished message: its records if all of them can be, else one dead letter."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from workers.messages import CALLS, LOST_CALLS, REPEATED_CALLS, UNSETTLED_USD, USAGE_EVENT, Message, Record
from workers.topics import Topics
from workers.transactions.dead_letters import (
    ANSWERED_HEADER,
    BOOKED_HEADER,
    CLASS_HEADER,
    GROUP_HEADER,
    cut_to_fit,
    dead_letter,
    record_bytes,
)
from workers.transactions.destinations import Destinations
from workers.transactions.observer import LoopObserver
from workers.transactions.work import Completion, Rejection

_EVENT_HEADER = "ce_type"
#: What says which calls were made.
_CALLS = frozenset({CALLS, REPEATED_CALLS, LOST_CALLS, UNSETTLED_USD})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A finished message and what is produced for it in the same transaction."""

    message: Message
    records: Sequence[Record]
    #: Of the dead letter among the records, if there is one.
    error_class: str | None = None


class Deliveries:
    """Settles completions so that nothing in a transaction can be refused for what it is.

    - All records fit their topics: they are produced as they are.
    - One of them does not (its topic is missing, or it is too large for it, or it is no proper record): none
      is produced, and the message becomes a dead letter of class ``unknown_topic``, ``record_too_large`` or
      ``invalid_record``; unless the work made a dead letter of it already, which is then all that is
      produced. So a message never ends as two dead letters, nor as half an answer. What was paid is booked
      all the same: records of usage are produced beside the dead letter.
    - The work rejected the message: it becomes a dead letter.
    - A dead letter is cut to what its topic takes. Where that topic is missing, the completion is held back,
      and with it the commit of its offset, until somebody creates the topic.
    """

    def __init__(
        self, destinations: Destinations, *, topic_prefix: str, group: str, observer: LoopObserver
    ) -> None:
        self._destinations = destinations
        self._topics = Topics(topic_prefix)
        self._group = group
        self._observer = observer

    def missing(self, topics: Collection[str]) -> frozenset[str]:
        """Give those of the topics that nothing can be produced to. Raises ``KafkaError``."""
        limits = self._destinations.limits(frozenset(topics)) if topics else {}
        return frozenset(topic for topic, limit in limits.items() if limit is None)

    def settle(self, completions: Sequence[Completion]) -> tuple[list[Delivery], list[Completion]]:
        """Give what can be delivered now, and the completions to hold back. Raises ``KafkaError``."""
        topics = {record.topic for completion in completions for record in completion.records}
        topics |= {self._topics.dead_letters(completion.message.topic) for completion in completions}
        limits = self._destinations.limits(topics)
        deliveries, held = [], []
        for completion in completions:
            delivery = self._settle(completion, limits)
            if delivery is None:
                held.append(completion)
            else:
                deliveries.append(delivery)
        return deliveries, held

    def _settle(self, completion: Completion, limits: Mapping[str, int | None]) -> Delivery | None:
        message, records = completion.message, completion.records
        letter_topic = self._topics.dead_letters(message.topic)
        letters = [record for record in records if record.topic == letter_topic]
        fault = completion.rejection or _find_fault(records, limits, letter_topic)
        if fault is None and not letters:
            return Delivery(message=message, records=records)
        if fault is not None and completion.rejection is None:
            paid = [record for record in records if self._tells_usage(record, limits)]
            made = letters or [_with_calls(self._make_letter(message, fault), records)]
            records = [*(_mark(letter, booked=bool(paid)) for letter in made), *paid]
        elif fault is not None:
            records = [self._make_letter(message, fault)]
        limit = limits[letter_topic]
        if limit is None:
            self._observer.held(message.topic)
            log.error("dead_letter_topic_missing", topic=letter_topic, holds=message.topic)
            return None
        records = [
            self._seal(record, limit) if record.topic == letter_topic else record for record in records
        ]
        return Delivery(message=message, records=records, error_class=_error_class(records, letter_topic))

    def _tells_usage(self, record: Record, limits: Mapping[str, int | None]) -> bool:
        told = (_EVENT_HEADER, USAGE_EVENT.encode()) in record.headers
        return told and record.topic == self._topics.usage and _find_fault([record], limits, "") is None

    def _make_letter(self, message: Message, rejection: Rejection) -> Record:
        return dead_letter(
            message,
            error_class=rejection.error_class,
            sentence=rejection.sentence,
            attempts=rejection.attempts,
            disposition=rejection.disposition,
            topic_prefix=self._topics.prefix,
        )

    def _seal(self, letter: Record, limit: int) -> Record:
        """Say which group gave up, and cut to fit."""
        if all(name != GROUP_HEADER for name, _ in letter.headers):
            letter = replace(letter, headers=(*letter.headers, (GROUP_HEADER, self._group.encode())))
        return cut_to_fit(letter, limit=limit)


def _with_calls(letter: Record, records: Sequence[Record]) -> Record:
    """Tell in a dead letter of the calls that were made for what cannot be produced."""
    for record in records:
        told = tuple(one for one in record.headers if one[0] in _CALLS) if _is_proper(record) else ()
        if told:
            kept = tuple(one for one in letter.headers if one[0] not in _CALLS)
            return replace(letter, headers=(*kept, *told))
    return letter


def _mark(letter: Record, *, booked: bool) -> Record:
    """Say of a dead letter that stands for a reply too: nobody had that; and whether the calls are booked."""
    kept = tuple(one for one in letter.headers if one[0] not in {ANSWERED_HEADER, BOOKED_HEADER})
    return replace(letter, headers=(*kept, (BOOKED_HEADER, b"true")) if booked else kept)


def _find_fault(
    records: Sequence[Record], limits: Mapping[str, int | None], letter_topic: str
) -> Rejection | None:
    """Say why not all records can be produced. Dead letters are exempt: they are cut, or held back."""
    for record in records:
        if record.topic == letter_topic:
            continue
        limit = limits[record.topic]
        if limit is None:
            return _fault("unknown_topic", f"topic {record.topic!r} does not exist, or may not be written to")
        if not _is_proper(record):
            return _fault(
                "invalid_record", "a record lacks key and value, or holds something else than bytes"
            )
        if (size := record_bytes(record)) > limit:
            sentence = f"a record of {size} bytes is over the {limit} that {record.topic!r} takes"
            return _fault("record_too_large", sentence)
    return None


def _fault(error_class: str, sentence: str) -> Rejection:
    return Rejection(error_class=error_class, sentence=sentence, attempts=1, disposition="rejected")


def _is_proper(record: Record) -> bool:
    """Check at run time what the types promise, because one record the client refuses would stop the loop."""
    key: object = record.key
    value: object = record.value
    headers: Sequence[tuple[object, object]] = record.headers
    return (
        (key is not None or value is not None)
        and isinstance(key, bytes | None)
        and isinstance(value, bytes | None)
        and all(isinstance(name, str) and isinstance(content, bytes) for name, content in headers)
    )


def _error_class(records: Sequence[Record], letter_topic: str) -> str:
    for record in records:
        if record.topic == letter_topic:
            for name, value in record.headers:
                if name == CLASS_HEADER:
                    return value.decode(errors="replace")
    return "unknown"
