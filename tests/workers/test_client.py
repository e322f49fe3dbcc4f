"""The client against the real broker: it sends what routers read, and reads what executors send."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from exactly_once import CommittedReader, create_topics, produce
from kafka import KafkaAdminClient, KafkaProducer

from workers.client import Client, Reply
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import UsageError
from workers.messages import FeedbackEvent, Message, decode
from workers.prompts import read_prompt
from workers.settings import Settings

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    """Topics under a prefix of the test's own."""
    prefix = f"{uuid.uuid4().hex[:8]}."
    create_topics(kafka_bootstrap, {f"{prefix}prompts": {}, f"{prefix}feedback": {}}, partitions=1)
    return Settings(
        kafka_bootstrap=kafka_bootstrap, topic_prefix=prefix, reply_prefix=f"{prefix}replies.", partitions=2
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A caller named ``app``."""
    with Client(app="app", settings=settings) as connected:
        yield connected


def read_all(settings: Settings, name: str, count: int) -> list[Any]:
    """Read so many records of a topic."""
    with CommittedReader(settings.kafka_bootstrap, [f"{settings.topic_prefix}{name}"]) as reader:
        reader.read_until(lambda reader: len(reader.records) >= count, timeout_s=60)
        return list(reader.records)


def as_message(record: Any) -> Message:
    """Give a record as a router gets it."""
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )


def answer(client: Client, settings: Settings, prompt_id: str, body: Any, **headers: str) -> None:
    """Write a reply as an executor does."""
    produce(
        settings.kafka_bootstrap,
        client.reply_topic,
        {prompt_id.encode(): json.dumps(body).encode()},
        headers=[(name.replace("_", "-"), value.encode()) for name, value in headers.items()],
    )


def test_a_prompt_is_what_routers_read(client: Client, settings: Settings) -> None:
    """Every wish arrives under its header, every further field in the body."""
    prompt_id = client.submit(
        "What is 7 * 6?",
        policy="thrifty",
        max_cost_usd=0.002,
        max_error=0.25,
        deadline=datetime(2030, 1, 31, 12, tzinfo=UTC),
        candidates=["small", "large"],
        tenant="acme",
        max_tokens=50,
        metadata={"team": "a"},
    )
    client.flush()
    [record] = read_all(settings, "prompts", 1)

    prompt = read_prompt(as_message(record), settings)

    assert (prompt.prompt_id, prompt.reply_to) == (prompt_id, client.reply_topic)
    assert (prompt.policy, prompt.tenant) == ("thrifty", "acme")
    assert prompt.request.prompt_text == "What is 7 * 6?"
    assert (prompt.limits.max_cost_usd, prompt.limits.max_error) == (0.002, 0.25)
    assert prompt.limits.candidates == {"small", "large"}
    assert prompt.limits.max_output_tokens == 50
    assert prompt.deadline == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert json.loads(record.value)["metadata"] == {"team": "a"}
    assert dict(record.headers)["ce_id"] == prompt_id.encode()
    assert len(dict(record.headers)["traceparent"]) == 55


def test_a_conversation_may_be_sent_and_an_id_be_given(client: Client, settings: Settings) -> None:
    """Turns go as they are; wishes that were not made leave no header."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    client.submit(turns, model="auto/best", prompt_id="mine")
    client.flush()
    [record] = read_all(settings, "prompts", 1)

    assert record.key == b"mine"
    assert json.loads(record.value) == {"model": "auto/best", "messages": turns}
    assert {name for name, _ in record.headers if name.startswith("uniroute-")} == {"uniroute-reply-to"}


def test_an_answer_is_read_with_its_facts(client: Client, settings: Settings) -> None:
    """Text, LLM, decision and cost are at hand."""
    body = {"choices": [{"message": {"role": "assistant", "content": "42"}}], "error": None}
    answer(
        client, settings, "p-1", body,
        uniroute_llm="small", uniroute_decision_id="token", uniroute_cost_usd="0.00025",
    )  # fmt: skip

    [reply] = client.replies(timeout_s=3)

    assert (reply.prompt_id, reply.text, reply.error) == ("p-1", "42", None)
    assert (reply.llm, reply.decision_id, reply.cost_usd) == ("small", "token", 0.00025)


def test_an_error_is_read_as_one(client: Client, settings: Settings) -> None:
    """There is no text, no LLM and no cost, but a reason."""
    answer(client, settings, "p-1", {"error": {"message": "no LLM is left", "code": "no_candidate"}})

    [reply] = client.replies(timeout_s=3)

    assert (reply.text, reply.error, reply.llm, reply.cost_usd) == ("", "no LLM is left", "", None)


@pytest.mark.parametrize(
    ("key", "value"),
    [(None, b'{"error": {"message": "bad key"}}'), (b"\xff", b'{"error": {"message": "bad key"}}')],
)
def test_a_reply_to_a_prompt_without_an_id_is_read(
    client: Client, settings: Settings, key: bytes | None, value: bytes
) -> None:
    """Routers answer such a prompt all the same; it must not end the caller's loop."""
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send(client.reply_topic, key=key, value=value).get(30)
    producer.close()

    [reply] = client.replies(timeout_s=3)

    assert reply.error == "bad key"


@pytest.mark.parametrize(
    "value", [b"not json", b"[]", b"\xff", b'{"error": "as a string"}', b'{"choices": []}']
)
def test_what_is_no_reply_does_not_end_the_loop(client: Client, settings: Settings, value: bytes) -> None:
    """Anyone may write to the topic; the replies before and after are read."""
    answer(client, settings, "p-1", {"choices": [{"message": {"content": "1"}}]})
    produce(settings.kafka_bootstrap, client.reply_topic, {b"p-1": value})
    answer(client, settings, "p-1", {"choices": [{"message": {"content": "2"}}]})

    replies = list(client.replies(timeout_s=3))

    assert [reply.text for reply in replies] == ["1", "", "2"]
    assert replies[1].error is not None or value == b'{"choices": []}'


def test_replies_are_read_once_per_name(settings: Settings) -> None:
    """A caller that comes back under its name goes on where it stopped; another group sees its own."""
    with Client(app="app", settings=settings) as first:
        answer(first, settings, "p-1", {"choices": []})
        assert [reply.prompt_id for reply in first.replies(timeout_s=3)] == ["p-1"]
    with Client(app="app", settings=settings) as second:
        answer(second, settings, "p-2", {"choices": []})

        assert [reply.prompt_id for reply in second.replies(timeout_s=3)] == ["p-2"]


def test_a_group_of_its_own_sees_what_comes_from_now_on(client: Client, settings: Settings) -> None:
    """What was there before it joined is not its business."""
    answer(client, settings, "p-1", {"choices": []})
    with Client(app="app", settings=settings, group=f"{settings.topic_prefix}audit") as other:
        answer(client, settings, "p-2", {"choices": []})

        assert [reply.prompt_id for reply in other.replies(timeout_s=3)] == ["p-2"]


def test_a_group_that_is_made_anew_misses_nothing(client: Client, settings: Settings) -> None:
    """A client joins again, with more partitions too, and still reads what came since it joined first."""
    answer(client, settings, "p-1", {"choices": []})
    with Client(app="app", settings=settings, group=f"{settings.topic_prefix}audit") as other:
        answer(client, settings, "p-2", {"choices": []})
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        admin.create_partitions({client.reply_topic: 8})
        admin.close()
        answer(client, settings, "p-3", {"choices": []})
        other._consumer.topics()  # reads the metadata now rather than in five minutes
        other._consumer._coordinator.request_rejoin()

        assert {reply.prompt_id for reply in other.replies(timeout_s=3)} == {"p-2", "p-3"}


def test_partitions_that_are_added_are_read_however_short_the_polls(
    client: Client, settings: Settings
) -> None:
    """The join that new partitions bring about outlives a poll of a millisecond.

    kafka-python forgets such a join: left alone the client would read nothing for ever.
    """
    answer(client, settings, "p-1", {"choices": []})
    assert poll_until_read(client, [client]) == ["p-1"]
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    for partitions in range(3, 11):  # each time a poll may or may not end between the two steps of a join
        admin.create_partitions({client.reply_topic: partitions})
        client._consumer.topics()  # reads the metadata now rather than in five minutes
        answer(client, settings, f"p-{partitions}", {"choices": []})

        assert poll_until_read(client, [client]) == [f"p-{partitions}"]
    admin.close()


def poll_until_read(reader: Client, members: list[Client]) -> list[str]:
    """Let the members of a group poll in turn, a millisecond each, until one of them has read something."""
    for _ in range(1_000):
        read = {member: [reply.prompt_id for reply in member.poll(timeout_ms=1)] for member in members}
        if read[reader]:
            return read[reader]
    raise AssertionError("nothing was read in a thousand polls")


def make_token() -> str:
    """Give the id of a decision."""
    facts = DecisionFacts(
        prompt_id="p", llm="small", map_version="0" * 16, cells=(1,), propensity=1.0, decided_at=1_800_000_000
    )
    return DecisionSigner({0: b"0123456789abcdef"}, current=0).sign(facts)


def test_feedback_is_what_learners_read(client: Client, settings: Settings) -> None:
    """By default one id per decision and source, so that sending it again counts once."""
    token = make_token()
    reply = Reply(prompt_id="p", body={}, llm="small", decision_id=token, cost_usd=None, headers={})
    client.feedback(reply, score=0.5)
    client.feedback(token, score=1.0)
    client.feedback(token, score=1.0, source="grader")
    client.feedback(token, score=1.0, feedback_id="mine")
    client.feedback(token, score=0.0, correction=True)
    client.label("what?", "small", score=0.25, source="checker")
    client.flush()

    events = [decode(r.value, FeedbackEvent, max_bytes=10_000) for r in read_all(settings, "feedback", 6)]
    *quoting, label = sorted(events, key=lambda event: event.prompt != "")

    assert {event.decision_id for event in quoting} == {token}
    assert [event.score for event in quoting] == [0.5, 1.0, 1.0, 1.0, 0.0]
    assert quoting[0].feedback_id == quoting[1].feedback_id
    assert len({event.feedback_id for event in quoting}) == 4
    assert quoting[2].source == "grader"
    assert [event.correction for event in quoting] == [False] * 4 + [True]
    assert (label.prompt, label.llm, label.score, label.decision_id) == ("what?", "small", 0.25, "")


@pytest.mark.parametrize("token", ["token", "not base64!", make_token()[:30], "A" * 80])
def test_what_is_no_decision_id_is_refused(client: Client, token: str) -> None:
    """At once, where the sender can still mend it."""
    with pytest.raises(UsageError, match="no decision id"):
        client.feedback(token, score=1.0)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_out_of_range_is_refused(client: Client, score: float) -> None:
    """Before it is sent, where it can still be mended."""
    with pytest.raises(UsageError, match="from 0 to 1"):
        client.feedback(make_token(), score=score)


def test_there_is_no_feedback_on_an_error(client: Client) -> None:
    """Nothing was decided, so nothing can be learned."""
    reply = Reply(prompt_id="p", body={}, llm="", decision_id="", cost_usd=None, headers={})

    with pytest.raises(UsageError, match="nothing to score"):
        client.feedback(reply, score=1.0)


@pytest.mark.parametrize("app", ["", "a/b", "a b", "x" * 250])
def test_a_name_that_kafka_would_refuse_is_refused(settings: Settings, app: str) -> None:
    """At once, and in words."""
    with pytest.raises(UsageError, match="app is"):
        Client(app=app, settings=settings)


def test_a_prompt_too_large_for_kafka_is_refused(client: Client) -> None:
    """It is the caller's to shorten: waiting would not help."""
    with pytest.raises(UsageError, match="bytes"):
        client.submit("x" * 5_000_000)


def test_a_broker_that_is_away_is_named() -> None:
    """Within seconds; in a process of its own, for the library then leaves sockets open."""
    code = "from workers.client import Client; Client('127.0.0.1:1', app='app')"

    done = subprocess.run(  # noqa: S603 (this interpreter and our own module)
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )

    assert "workers.errors.WaitableError: Kafka is away" in done.stderr
