"""Poison of every kind among good messages, through real processes: nothing dies, nothing is lost."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exactly_once import CommittedReader
from installations import Installation
from kafka import KafkaProducer
from kafka.serializer import Serializer
from sqlalchemy import func, select

from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.process import ServerProcess
from workers.local.stack import LocalStack
from workers.messages import Headers
from workers.storage.engine import transaction
from workers.storage.tables import FeedbackRow
from workers.topics import create_topics, reply_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

LLMS = ("sim-generalist", "sim-novice")
GOOD = BuiltinSource().prompts("traffic", 1_000)
PATIENCE_S = 180.0
NUMBER = "x-number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message to produce; the client library sends no null value and no null key by itself."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """A kind of poison: how it differs from a good message, and what must become of it."""

    error_class: str
    value: bytes | None = b'{"model": "auto", "messages": [{"role": "user", "content": "what is this?"}]}'
    #: ``None``: no key at all; else it stands before a number.
    key: bytes | None = b"poison-"
    #: Under the installation's prefix, unless it begins with a slash.
    reply_to: bytes | None = b"replies.app"
    headers: Headers = ()
    #: Whether its caller can be told.
    answered: bool = True


def body(**fields: Any) -> bytes:
    """Make a body, some of its fields replaced."""
    return json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}
    ).encode()


TURNS = b'"messages": [{"role": "user", "content": "hello"}]'
PROMPT_POISON = (
    Poison(error_class="not_json", value=b'{"model": "auto", "messages"'),
    Poison(error_class="not_json", value=b"What is the capital of France?"),
    Poison(error_class="not_json", value=b"\xff\xfe\x00\x80"),
    Poison(error_class="not_json", value=b'{"model": "auto", "note": "\xff", ' + TURNS + b"}"),
    Poison(error_class="not_json", value=b'{"model": "auto", "temperature": NaN, ' + TURNS + b"}"),
    Poison(error_class="invalid_body", value=b'{"model": "auto", "seed": 1e999, ' + TURNS + b"}"),
    Poison(
        error_class="invalid_body",
        value=b'{"model": "auto", "max_tokens": 1' + b"0" * 400 + b", " + TURNS + b"}",
    ),
    Poison(error_class="invalid_body", value=body(messages="hello")),
    Poison(error_class="invalid_body", value=body(messages=[])),
    Poison(error_class="invalid_body", value=body(model=["auto"])),
    Poison(error_class="invalid_body", value=b"[1, 2, 3]"),
    Poison(error_class="invalid_body", value=b'{"model": "auto", "messages": ' + b"[" * 100_000),
    Poison(error_class="empty", value=b""),
    Poison(error_class="empty", value=None),
    Poison(error_class="too_large", value=body(padding="x" * 1_048_576)),
    Poison(error_class="unknown_llm", value=body(model="gpt-17")),
    Poison(error_class="unknown_policy", value=body(model="auto/nothing")),
    Poison(error_class="bad_key", key=None),
    Poison(error_class="bad_key", key=b"\xff\xfe"),
    Poison(error_class="bad_key", key=b"k" * 300),
    Poison(error_class="bad_key", key=None, value=None, reply_to=None, answered=False),
    Poison(error_class="no_reply_topic", reply_to=None, answered=False),
    Poison(error_class="illegal_reply_topic", reply_to=b"prompts", answered=False),
    Poison(error_class="illegal_reply_topic", reply_to=b"/payments", answered=False),
    Poison(error_class="illegal_reply_topic", reply_to=b"replies.\xff", answered=False),
    Poison(error_class="illegal_reply_topic", reply_to=b"replies." + b"x" * 100_000, answered=False),
    Poison(error_class="not_json", value=b"{", reply_to=b"replies.nobody", answered=False),
    Poison(error_class="bad_header", headers=(("uniroute-max-cost-usd", b"nan"),)),
    Poison(error_class="bad_header", headers=(("uniroute-max-error", b"-inf"),)),
    Poison(error_class="bad_header", headers=(("uniroute-deadline", b"\0\r\nX-Evil: 1"),)),
    Poison(error_class="bad_header", headers=(("uniroute-policy", b"\xc3\x28"),)),
    Poison(error_class="bad_header", headers=(("uniroute-candidates", b"x," * 50_000),)),
)
DISPATCH_POISON = (
    Poison(error_class="invalid_dispatch", value=b"{"),
    Poison(error_class="invalid_dispatch", value=b"[]"),
    Poison(error_class="invalid_dispatch", value=b'{"x": "\xff"}'),
    Poison(error_class="invalid_dispatch", value=b'{"x": 1e999}'),
    Poison(error_class="invalid_dispatch", value=b"[" * 100_000),
    Poison(error_class="invalid_dispatch", value=None),
    Poison(error_class="invalid_dispatch", value=b""),
    Poison(error_class="invalid_dispatch", key=None),
    Poison(error_class="invalid_dispatch", key=b"\xff"),
    Poison(error_class="invalid_dispatch", key=None, value=None, reply_to=None),
    Poison(error_class="no_reply_topic", reply_to=None),
    Poison(error_class="illegal_reply_topic", reply_to=b"/payments"),
    Poison(error_class="unknown_topic", reply_to=b"replies.nobody"),
    Poison(error_class="bad_header", headers=(("uniroute-deadline", b"soon"),)),
)
FEEDBACK_POISON = (
    Poison(error_class="not_json", value=b"very good"),
    Poison(error_class="not_json", value=b"\xff"),
    Poison(error_class="not_json", value=b'{"feedback_id": "f", "decision_id": "d", "score": NaN}'),
    Poison(error_class="empty", value=b""),
    Poison(error_class="empty", value=None),
    Poison(error_class="empty", key=None, value=None),
    Poison(error_class="invalid_body", value=b"{}"),
    Poison(error_class="invalid_body", value=b'{"feedback_id": "f", "decision_id": "d", "score": "1"}'),
    Poison(error_class="invalid_body", value=b"[" * 10_000),
    Poison(error_class="too_large", value=b" " * 1_048_576),
    Poison(error_class="bad_feedback", value=b'{"feedback_id": "f", "decision_id": "d", "score": 1.5}'),
    Poison(error_class="bad_feedback", value=b'{"feedback_id": "", "decision_id": "d", "score": 1}'),
    Poison(error_class="malformed_decision", value=b'{"feedback_id": "f", "decision_id": "d", "score": 1}'),
)


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """Two simulated LLMs that answer at once, a reply topic, and a map."""
    created = Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=tmp_path
    )
    with ServerProcess.start(["--latency-scale", "0"]) as server, created:
        for llm in LLMS:
            created.register(llm, base_url=server.base_url)
        create_topics(
            created.settings, [reply_topic(f"{created.settings.reply_prefix}app", created.settings)]
        )
        yield created


def make_poison(kinds: Sequence[Poison], count: int, prefix: str, *more: tuple[str, bytes]) -> list[Sent]:
    """Make so many messages of all kinds in turn, each numbered in a header."""
    made = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        headers = [(NUMBER, b"%d" % number), *more, *kind.headers]
        if kind.reply_to is not None:
            named = kind.reply_to.removeprefix(b"/")
            headers.append(
                ("uniroute-reply-to", named if named != kind.reply_to else prefix.encode() + named)
            )
        numbered = kind.key is not None and kind.key.endswith(b"-")
        key = b"%s%d" % (kind.key, number) if numbered else kind.key
        made.append(Sent(key=key, value=kind.value, headers=tuple(headers)))
    return made


def make_prompts(installation: Installation) -> list[Sent]:
    """Make the good prompts."""
    reply_to = ("uniroute-reply-to", f"{installation.settings.reply_prefix}app".encode())
    return [
        Sent(
            key=prompt.prompt_id.encode(),
            value=body(messages=[{"role": "user", "content": prompt.text}]),
            headers=(reply_to,),
        )
        for prompt in GOOD
    ]


class NullableKey(Serializer):  # type: ignore[misc]  # kafka publishes no types
    """Makes an empty key null: the client library takes no null key beside a null value."""

    def serialize(self, _topic: str, _headers: list[tuple[str, bytes]], data: bytes) -> bytes | None:
        """Give the key's bytes."""
        return data or None


class NullableValue(Serializer):  # type: ignore[misc]
    """Takes the value out of the message, null or not."""

    def serialize(self, _topic: str, _headers: list[tuple[str, bytes]], data: Sent) -> bytes | None:
        """Give the value's bytes."""
        return data.value


def produce_shuffled(
    installation: Installation, topic: str, messages: Sequence[Sent], *, seed: int = 0
) -> None:
    """Produce them in a random order and wait until all are acknowledged."""
    producer = KafkaProducer(
        bootstrap_servers=installation.settings.kafka_bootstrap,
        linger_ms=5,
        max_request_size=4_000_000,
        key_serializer=NullableKey(),
        value_serializer=NullableValue(),
    )
    shuffled = random.Random(seed).sample(messages, len(messages))
    sent = [
        producer.send(topic, key=one.key or b"", value=one, headers=list(one.headers)) for one in shuffled
    ]
    for acknowledgement in sent:
        acknowledgement.get(60)
    producer.close()


def read_headers(record: Any) -> dict[str, str]:
    """Give headers as text."""
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


def seen(count: int) -> Callable[[CommittedReader], bool]:
    """Whether so many records came."""
    return lambda reader: len(reader.records) >= count


def assert_dead_letters(
    installation: Installation, topic: str, kinds: Sequence[Poison], messages: Sequence[Sent], *, group: str
) -> None:
    """Each message has one dead letter, of its kind's class, with its own bytes and the KIP-1191 headers."""
    settings = installation.settings
    with CommittedReader(settings.kafka_bootstrap, [installation.topics.dead_letters(topic)]) as reader:
        reader.read_until(seen(len(messages)), timeout_s=PATIENCE_S)
        reader.read_to_end()
    letters = {int(read_headers(record)[NUMBER]): record for record in reader.records}

    assert Counter(read_headers(record)[NUMBER] for record in reader.records) == Counter(
        str(number) for number in range(len(messages))
    )
    for number, message in enumerate(messages):
        letter, kind = letters[number], kinds[number % len(kinds)]
        headers = read_headers(letter)

        assert headers["uniroute-dlq-class"] == kind.error_class, kind
        assert letter.key == message.key
        assert letter.value == (message.value or (b"" if message.key is None else message.value))
        assert headers["__dlq.errors.topic"] == topic
        assert headers["__dlq.errors.group"] == f"{settings.topic_prefix}{group}"
        assert headers["__dlq.errors.message"]
        assert {
            "__dlq.errors.partition",
            "__dlq.errors.offset",
            "__dlq.errors.delivery.count",
        } <= headers.keys()


def test_every_role_survives_poison(installation: Installation) -> None:
    """200 poison prompts among 1,000 good ones, then poison dispatches and poison feedback.

    Every good prompt is answered once, every good piece of feedback counted once, every poison one is a dead
    letter with its class, told to its caller where there is a legal topic; no process died.
    """
    settings, topics, prefix = installation.settings, installation.topics, installation.settings.topic_prefix
    roles = [installation.serve(role) for role in ("router", "executor", "learner")]
    poison = make_poison(PROMPT_POISON, 200, prefix)
    produce_shuffled(installation, topics.prompts, [*make_prompts(installation), *poison])
    told = [kind for number in range(200) if (kind := PROMPT_POISON[number % len(PROMPT_POISON)]).answered]
    with CommittedReader(settings.kafka_bootstrap, [f"{settings.reply_prefix}app"]) as replies:
        replies.read_until(seen(len(GOOD) + len(told)), timeout_s=PATIENCE_S)
        replies.read_to_end()
    answers = [record for record in replies.records if b'"choices"' in record.value[:2_000]]
    errors = [json.loads(record.value)["error"] for record in replies.records if record not in answers]

    assert Counter(record.key for record in answers) == Counter(prompt.prompt_id.encode() for prompt in GOOD)
    assert Counter(error["code"] for error in errors) == Counter(kind.error_class for kind in told)
    assert_dead_letters(installation, topics.prompts, PROMPT_POISON, poison, group="router")

    dispatch = topics.dispatch(LLMS[0])
    damaged = make_poison(
        DISPATCH_POISON, 3 * len(DISPATCH_POISON), prefix, ("uniroute-llm", LLMS[0].encode())
    )
    produce_shuffled(installation, dispatch, damaged)
    assert_dead_letters(installation, dispatch, DISPATCH_POISON, damaged, group="executor")

    given = [
        Sent(
            key=b"k",
            value=json.dumps(
                {
                    "feedback_id": f"f-{row}",
                    "decision_id": read_headers(answer)["uniroute-decision-id"],
                    "score": 1,
                }
            ).encode(),
        )
        for row, answer in enumerate(answers[:300])
    ]
    forged = make_poison(FEEDBACK_POISON, 5 * len(FEEDBACK_POISON), prefix)
    produce_shuffled(installation, topics.feedback, [*given, *given, *forged])
    assert_dead_letters(installation, topics.feedback, FEEDBACK_POISON, forged, group="learner")
    codes = [role.stop()[0] for role in roles]

    with transaction(installation.engine) as session:
        assert session.scalar(select(func.count()).select_from(FeedbackRow)) == len(given)
    assert codes == [0, 0, 0]
    assert [role.said("loop_rejoins") for role in roles] == [0, 0, 0]
