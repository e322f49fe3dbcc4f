"""What is produced for a message of which not all records can be: one dead letter, and what was paid."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from workers.messages import (
    CALLS,
    REPEATED_CALLS,
    RESERVATION_EVENT,
    USAGE_EVENT,
    Message,
    Record,
    event_headers,
)
from workers.transactions import LoopCounters
from workers.transactions.dead_letters import ANSWERED_HEADER, BOOKED_HEADER
from workers.transactions.deliveries import Deliveries
from workers.transactions.destinations import Destinations
from workers.transactions.work import Completion, Rejection

MESSAGE = Message(topic="t.dispatch.a", partition=0, offset=7, timestamp_ms=0, key=b"p-1", value=b"asked")
#: Over the limit of every topic but that of dead letters.
REPLY = Record(topic="t.replies.app", key=b"p-1", value=bytes(2_000))
LIMITS = {"t.replies.app": 1_000, "t.usage": 1_000, "t.dlq.dispatch.a": 9_000}


class Limited:
    """A directory of topics with limits."""

    def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """Of those that exist."""
        return {topic: LIMITS[topic] for topic in topics if topic in LIMITS}


def booked(event: str, value: bytes = b"usage") -> Record:
    """A record on the usage topic."""
    headers = event_headers(event_id="u", event_type=event, source="/test", now=datetime.now(UTC))
    return Record(topic="t.usage", key=b"p-1", value=value, headers=headers)


def settle(*records: Record, rejection: Rejection | None = None) -> list[str]:
    """Give the topics of what is produced."""
    return [record.topic for record in deliver(*records, rejection=rejection)]


def deliver(*records: Record, rejection: Rejection | None = None) -> Sequence[Record]:
    """Give what is produced."""
    deliveries = Deliveries(Destinations(Limited()), topic_prefix="t.", group="g", observer=LoopCounters())
    [delivery], [] = deliveries.settle([Completion(message=MESSAGE, records=records, rejection=rejection)])
    return delivery.records


def test_the_letter_of_a_reply_that_cannot_be_produced_tells_its_calls() -> None:
    """As the reply would have, and that they are booked; without usage they are not."""
    reply = replace(REPLY, headers=((CALLS, b"[1]"), (REPEATED_CALLS, b"2")))
    booked_letter = dict(deliver(reply, booked(USAGE_EVENT))[0].headers)
    letter = dict(deliver(reply)[0].headers)

    assert (booked_letter[CALLS], booked_letter[REPEATED_CALLS]) == (b"[1]", b"2")
    assert booked_letter[BOOKED_HEADER] == b"true"
    assert letter[CALLS] == b"[1]"
    assert BOOKED_HEADER not in letter


def test_a_letter_does_not_say_that_its_caller_was_told_where_the_reply_is_left_out() -> None:
    """It can be redriven, once the reply's topic is mended."""
    letter = Record(
        topic="t.dlq.dispatch.a", key=b"p-1", value=b"asked", headers=((ANSWERED_HEADER, b"true"),)
    )

    assert ANSWERED_HEADER not in dict(deliver(REPLY, letter, booked(USAGE_EVENT))[0].headers)


def test_what_was_paid_is_booked_though_the_reply_is_too_large() -> None:
    """The dead letter takes the place of the reply alone."""
    assert settle(REPLY, booked(USAGE_EVENT)) == ["t.dlq.dispatch.a", "t.usage"]


def test_a_dead_letter_of_the_work_keeps_its_usage_too() -> None:
    """An error reply that is too large is left out; letter and usage are produced."""
    letter = Record(topic="t.dlq.dispatch.a", key=b"p-1", value=b"asked")

    assert settle(REPLY, letter, booked(USAGE_EVENT)) == ["t.dlq.dispatch.a", "t.usage"]


def test_a_reservation_goes_with_what_it_was_for() -> None:
    """A dispatch that is not produced is never settled."""
    assert settle(REPLY, booked(RESERVATION_EVENT)) == ["t.dlq.dispatch.a"]


def test_usage_that_cannot_be_produced_itself_is_left_out() -> None:
    """As is all of a message that the work rejected."""
    rejection = Rejection(error_class="x", sentence="no", attempts=1, disposition="rejected")

    assert settle(REPLY, booked(USAGE_EVENT, bytes(2_000))) == ["t.dlq.dispatch.a"]
    assert settle(booked(USAGE_EVENT), rejection=rejection) == ["t.dlq.dispatch.a"]
