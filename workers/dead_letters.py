"""Dead letters as operators handle them: list, redrive (to the same LLM or decided anew), drop; each once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from workers import messages
from workers.cascades import wish_again
from workers.errors import UsageError, WaitableError
from workers.messages import SCORER, CallFact, Headers, Message, Record
from workers.settings import Settings
from workers.topics import MAX_RECORD_BYTES, Topics, batch_replies
from workers.transactions.consumer import read_message
from workers.transactions.dead_letters import (
    ANSWERED_HEADER,
    BOOKED_HEADER,
    CLASS_HEADER,
    CUT_HEADER,
    OFFSET_HEADER,
    PARTITION_HEADER,
)
from workers.transactions.header_names import read_any_header_name

Handling = Literal["redriven", "dropped"]

_POLL_MS = 500
_WAIT_S = 20.0
#: Dead letters handled in one transaction.
_BATCH = 500
_OWN_PREFIXES = ("__dlq.errors.", "uniroute-dlq-")
#: What a router decides anew.
_DECIDED = frozenset(
    {
        messages.DECISION_ID,
        messages.LLM,
        messages.POLICY,
        messages.PREDICTED_ERROR,
        messages.PREDICTED_COST_USD,
        messages.INPUT_TOKENS,
        messages.RESERVED_USD,
        messages.POLICY_PERIOD,
        messages.PRIORITY,
        messages.DEGRADED,
        messages.FALLBACKS,
        messages.FALLBACK_FROM,
        messages.CALLS,
        messages.REPEATED_CALLS,
        messages.LOST_CALLS,
        messages.UNSETTLED_USD,
        messages.CASCADE,
        messages.HELD_ANSWER,
        messages.VERSIONS,
        messages.EXCLUDED,
        messages.MAX_COST_USD,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter that was neither redriven nor dropped."""

    message: Message
    #: ``TOPIC@PARTITION:OFFSET``, the topic less the prefix of dead letters.
    letter_id: str
    error_class: str
    sentence: str
    #: Where it was consumed from.
    origin: str
    attempts: int
    #: The LLM that it was dispatched to; empty for one that was not.
    llm: str
    at: datetime
    #: What of it did not fit, if anything: such a letter cannot be redriven.
    cut: str
    #: Whether its caller has had an error reply, and whether what its calls cost is booked.
    answered: bool
    booked: bool
    calls: tuple[CallFact, ...]

    @property
    def failed(self) -> frozenset[str]:
        """The LLMs that gave it no answer."""
        called = {call.llm for call in self.calls if call.outcome != "ok"} - {SCORER}
        return frozenset(called | ({self.llm} if self.llm else set()))

    @property
    def spent_usd(self) -> float:
        """USD that its calls are known to have cost, or estimated where that is not known."""
        return sum(call.cost_usd or 0.0 for call in self.calls) + self.unsettled_usd

    @property
    def unsettled_usd(self) -> float:
        """USD of calls that may have been billed without anybody knowing, as estimated."""
        told = _read_number(self.message, messages.UNSETTLED_USD)
        return sum(call.unsettled_usd for call in self.calls) if told is None else told


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters are meant; what is ``None`` or empty does not matter."""

    error_class: str | None = None
    llm: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: frozenset[str] = frozenset()

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is among them."""
        return (
            (self.error_class is None or letter.error_class == self.error_class)
            and (self.llm is None or self.llm in letter.failed)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
            and (not self.ids or letter.letter_id in self.ids)
        )


def read_letters(settings: Settings, wanted: Filter) -> list[DeadLetter]:
    """Give the dead letters that wait, oldest first; ``WaitableError`` where the broker is away."""
    topics = Topics(settings.topic_prefix)
    try:
        handled = {message.key for message in _read_all(settings, [topics.handled])}
        found = [_read_letter(message, topics) for message in _read_all(settings, _letter_topics(settings))]
    except KafkaError as error:
        raise WaitableError("Kafka", f"{type(error).__name__}: {error}") from error
    return sorted(
        (one for one in found if one.letter_id.encode() not in handled and wanted.takes(one)),
        key=lambda one: (one.at, one.letter_id),
    )


def handle_letters(
    settings: Settings, wanted: Filter, what: Handling, *, reroute: bool = False
) -> tuple[list[DeadLetter], list[tuple[DeadLetter, str]]]:
    """Redrive or drop the dead letters that ``wanted`` takes; give those, and those refused with the reason.

    A dead letter and the note that it was handled go into one transaction, and whoever starts later fences
    whoever has not ended: however often and by how many it is asked, each is redriven once. It keeps its
    prompt id, and what is left of its deadline and its budget. With ``reroute`` a router decides it again,
    without the LLMs that gave it no answer; else it goes where it came from. What its caller was told the end
    of is not redriven: a prompt has one reply. What its calls cost is booked if it is not yet: by the next
    bill where that goes on from it, else at once.
    """
    done: list[DeadLetter] = []
    refused: list[tuple[DeadLetter, str]] = []
    try:
        producer = KafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap.split(","),
            transactional_id=f"{settings.topic_prefix}dlq",
            max_request_size=2 * MAX_RECORD_BYTES,
            max_block_ms=int(_WAIT_S * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        try:
            producer.init_transactions()  # from here on nobody else's handling can end
            letters = read_letters(settings, wanted)
            for start in range(0, len(letters), _BATCH):
                producer.begin_transaction()
                sent = []
                for letter in letters[start : start + _BATCH]:
                    problem = _find_problem(letter, settings, reroute=reroute) if what == "redriven" else None
                    if problem is not None:
                        refused.append((letter, problem))
                        continue
                    sent += [
                        producer.send(one.topic, key=one.key, value=one.value, headers=list(one.headers))
                        for one in _handled(letter, settings, what, reroute=reroute)
                    ]
                    done.append(letter)
                for acknowledgement in sent:  # kafka-python commits without what was refused
                    acknowledgement.get(_WAIT_S)
                producer.commit_transaction()
        finally:
            producer.close(timeout=_WAIT_S)
    except KafkaError as error:
        raise WaitableError("Kafka", f"{type(error).__name__}: {error}") from error
    return done, refused


def _handled(letter: DeadLetter, settings: Settings, what: Handling, *, reroute: bool) -> list[Record]:
    """Give what handling a dead letter produces: itself where it is redriven, its bill, and a note."""
    topics = Topics(settings.topic_prefix)
    records = []
    if what == "redriven":
        topic, headers = _redriven(letter, topics, reroute=reroute)
        records.append(
            Record(topic=topic, key=letter.message.key, value=letter.message.value, headers=headers)
        )
    if letter.calls and not letter.booked and (reroute or what == "dropped"):
        records.append(_bill(letter, settings))
    return [
        *records,
        Record(topic=topics.handled, key=letter.letter_id.encode(), value=what.encode(), headers=()),
    ]


def _bill(letter: DeadLetter, settings: Settings) -> Record:
    """Give the usage of calls that no record told of, under the id that its dispatch would have given it.

    The learner dead-letters what it cannot book.
    """
    header = letter.message.text_header
    origin = f"{letter.origin}/{header(PARTITION_HEADER)}/{header(OFFSET_HEADER)}"
    known = [call.cost_usd for call in letter.calls if call.cost_usd is not None]
    usage = messages.UsageRecord(
        usage_id=origin,
        prompt_id=letter.message.id_bytes.decode(errors="replace"),
        decision_id=header(messages.DECISION_ID) or "",
        llm=letter.llm,
        outcome=letter.error_class,
        attempts=len(letter.calls),
        seconds=0.0,
        tenant=header(messages.TENANT) or "",
        lane=header(messages.LANE) or "",
        cost_usd=sum(known) if known else None,
        unsettled_usd=letter.unsettled_usd,
        reserved_usd=_read_number(letter.message, messages.RESERVED_USD) or 0.0,
        policy=header(messages.POLICY) or "",
        expected_usd=_read_number(letter.message, messages.PREDICTED_COST_USD) or 0.0,
        policy_period=int(_read_number(letter.message, messages.POLICY_PERIOD) or 0),
        degraded=header(messages.DEGRADED) or "",
        calls=letter.calls,
    )
    event = messages.event_headers(
        event_id=origin, event_type=messages.USAGE_EVENT, source="/dlq", now=letter.at
    )
    return Record(
        topic=Topics(settings.topic_prefix).usage,
        key=letter.message.key,
        value=messages.encode(usage),
        headers=event,
    )


def _find_problem(letter: DeadLetter, settings: Settings, *, reroute: bool) -> str | None:
    if letter.message.text_header(messages.REPLY_TO) == batch_replies(settings.reply_prefix):
        return "its line of a batch has ended: uniroute batch retry-failed takes it up"
    return _find_fault(letter, reroute=reroute)


def _find_fault(letter: DeadLetter, *, reroute: bool) -> str | None:
    if letter.cut:
        return f"it was cut to fit the broker's limit ({letter.cut})"
    if letter.answered:
        return "its caller has had an error reply, and a prompt has one: let the caller send it again"
    if not letter.origin:
        return "it does not say where it came from"
    if reroute and not letter.llm:
        return "it was never dispatched: redrive it without --reroute"
    budget = _read_number(letter.message, messages.MAX_COST_USD)
    if budget is not None and letter.spent_usd >= budget:
        return f"it has spent its {budget:g} USD"
    return None


def _redriven(letter: DeadLetter, topics: Topics, *, reroute: bool) -> tuple[str, Headers]:
    kept = tuple(one for one in letter.message.headers if not one[0].startswith(_OWN_PREFIXES))
    if not reroute:
        # What is booked must not be on the next bill as well; what is not is booked by that.
        return letter.origin, _with_new_bill(kept, letter) if letter.booked else kept
    headers = [one for one in kept if one[0] not in _DECIDED and not one[0].startswith("ce_")]
    policy, _, _ = (letter.message.text_header(messages.POLICY) or "").partition("@")
    if policy:
        headers.append((messages.POLICY, policy.encode()))
    excluded = {name for name in (letter.message.text_header(messages.EXCLUDED) or "").split(",") if name}
    headers.append((messages.EXCLUDED, ",".join(sorted(excluded | letter.failed)).encode()))
    cascade = wish_again(letter.message.header(messages.CASCADE) or b"")
    if cascade is not None:
        headers.append((messages.CASCADE, cascade))
    budget = _read_number(letter.message, messages.MAX_COST_USD)
    if budget is not None:
        headers.append((messages.MAX_COST_USD, repr(budget - letter.spent_usd).encode()))
    return topics.prompts, tuple(headers)


def _with_new_bill(headers: Headers, letter: DeadLetter) -> Headers:
    replaced = {
        messages.CALLS,
        messages.REPEATED_CALLS,
        messages.LOST_CALLS,
        messages.UNSETTLED_USD,
        messages.MAX_COST_USD,
    }
    kept = tuple(one for one in headers if one[0] not in replaced)
    budget = _read_number(letter.message, messages.MAX_COST_USD)
    if budget is None:
        return kept
    return (*kept, (messages.MAX_COST_USD, repr(budget - letter.spent_usd).encode()))


def _read_letter(message: Message, topics: Topics) -> DeadLetter:
    texts = {name: value.decode(errors="replace") for name, value in message.headers}
    attempts = texts.get("uniroute-dlq-attempts", "")
    try:
        calls = msgspec.json.decode(message.header(messages.CALLS) or b"[]", type=tuple[CallFact, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        calls = ()
    return DeadLetter(
        message=message,
        letter_id=f"{message.topic.removeprefix(topics.dead_letters(''))}@{message.partition}:{message.offset}",
        error_class=texts.get(CLASS_HEADER, "unknown"),
        sentence=texts.get("__dlq.errors.message", ""),
        origin=texts.get("__dlq.errors.topic", ""),
        attempts=int(attempts) if attempts.isdecimal() else 0,
        llm=texts.get(messages.LLM, ""),
        at=datetime.fromtimestamp(message.timestamp_ms / 1000, tz=UTC),
        cut=texts.get(CUT_HEADER, ""),
        answered=ANSWERED_HEADER in texts,
        booked=BOOKED_HEADER in texts,
        calls=calls,
    )


def _read_number(message: Message, name: str) -> float | None:
    try:
        return float(message.header(name) or b"")
    except ValueError:
        return None


def _letter_topics(settings: Settings) -> list[str]:
    prefix = Topics(settings.topic_prefix).dead_letters("")
    consumer = _consumer(settings)
    try:
        return sorted(topic for topic in consumer.topics() if topic.startswith(prefix))
    finally:
        consumer.close()


def _read_all(settings: Settings, names: Iterable[str]) -> Iterator[Message]:
    """Read topics from beginning to end, as committed."""
    read_any_header_name()
    consumer = _consumer(settings)
    try:
        partitions = _find_partitions(consumer, names)
        if not partitions:
            return
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=_POLL_MS).values():
                for record in records:
                    yield read_message(record)
    finally:
        consumer.close()


def _find_partitions(consumer: Any, names: Iterable[str]) -> Sequence[TopicPartition]:  # noqa: ANN401
    found = []
    for name in names:
        numbers = consumer.partitions_for_topic(name)
        if not numbers:
            raise UsageError(f"topic {name} does not exist: create it with `uniroute topics --create`")
        found += [TopicPartition(name, number) for number in sorted(numbers)]
    return found


def _consumer(settings: Settings) -> Any:  # noqa: ANN401  # kafka publishes no types
    return KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap.split(","),
        group_id=None,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )
