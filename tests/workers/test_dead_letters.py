"""Dead letters are redriven once, where they came from or decided anew, and listed no more."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from exactly_once import CommittedReader, create_topics
from kafka import KafkaProducer
from scripted_calls import USAGE, Bench, always, answer, body_of
from scripted_calls import dispatch as make_dispatch
from typer.testing import CliRunner

from workers.calls.errors import CallError
from workers.cli.main import command
from workers.dead_letters import Filter, handle_letters, read_letters
from workers.messages import Message
from workers.settings import Settings
from workers.topics import Topics
from workers.transactions.dead_letters import dead_letter

pytestmark = pytest.mark.stack

CALLS = json.dumps([["a", "server", 0.5, None, None, None], ["a", "bad_response", 1.0, 10, 20, 0.25]])
HEADERS = {
    "uniroute-llm": "a",
    "uniroute-decision-id": "token",
    "uniroute-policy": "cheap@3",
    "uniroute-reply-to": "uniroute.replies.app",
    "uniroute-max-cost-usd": "1.0",
    "uniroute-excluded": "z",
    "uniroute-calls": CALLS,
    "ce_type": "uniroute.dispatch",
}


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    """An installation with an LLM and three dead letters of it: p-0, p-1 and p-2."""
    made = Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=f"{uuid.uuid4().hex[:8]}.")
    topics = Topics(made.topic_prefix)
    names = [topics.prompts, topics.dispatch("a"), topics.dead_letters(topics.dispatch("a"))]
    names += [topics.handled, topics.usage]
    create_topics(kafka_bootstrap, {name: {} for name in names}, partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    for number, error_class in enumerate(["server", "server", "timeout"]):
        letter = dead_letter(
            message(f"p-{number}", made, HEADERS),
            error_class=error_class,
            sentence="no",
            attempts=2,
            topic_prefix=made.topic_prefix,
        )
        producer.send(letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers))
    producer.close()
    return made


def message(key: str, settings: Settings, headers: Mapping[str, str]) -> Message:
    """A dispatch."""
    return Message(
        topic=Topics(settings.topic_prefix).dispatch("a"),
        partition=0,
        offset=7,
        timestamp_ms=0,
        key=key.encode(),
        value=b'{"model": "auto"}',
        headers=tuple((name, value.encode()) for name, value in headers.items()),
    )


def keep_failed(settings: Settings, on_failure: str) -> None:
    """Have an executor fail a prompt that may cost 1 USD, at 0.03 USD, and keep the letter as the fourth."""
    garbled = CallError("bad_response", "no", usage=USAGE)
    [records] = Bench({"a": always(garbled)}).handle(make_dispatch(on_failure=on_failure, max_cost_usd="1"))
    [letter] = [record for record in records if record.topic.startswith("uniroute.dlq.")]
    topics = Topics(settings.topic_prefix)
    headers = [one for one in letter.headers if one[0] != "__dlq.errors.topic"]
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send(
        topics.dead_letters(topics.dispatch("a")),
        key=letter.key,
        value=letter.value,
        headers=[*headers, ("__dlq.errors.topic", topics.dispatch("a").encode())],
    )
    producer.close()


def committed(settings: Settings, topic: str) -> list[tuple[bytes, bytes, dict[str, str]]]:
    """Key, value and headers of what a topic holds."""
    with CommittedReader(settings.kafka_bootstrap, [topic]) as reader:
        reader.read_to_end()
        return [
            (one.key, one.value, {name: value.decode() for name, value in one.headers})
            for one in reader.records
        ]


def test_a_dead_letter_is_redriven_once(settings: Settings) -> None:
    """It goes where it came from, as it was, under its id; asked again, nothing happens."""
    wanted = Filter(ids=frozenset(["dispatch.a@0:0"]))
    first, _ = handle_letters(settings, wanted, "redriven")
    second, _ = handle_letters(settings, wanted, "redriven")
    [(key, value, headers)] = committed(settings, Topics(settings.topic_prefix).dispatch("a"))

    assert ([one.message.key for one in first], second) == ([b"p-0"], [])
    assert (key, value, headers) == (b"p-0", b'{"model": "auto"}', HEADERS)
    assert [one.message.key for one in read_letters(settings, Filter())] == [b"p-1", b"p-2"]


def test_a_dead_letter_is_decided_anew(settings: Settings) -> None:
    """Without the LLM that failed, by the same policy, with what is left: 1 USD less 0.25."""
    handle_letters(settings, Filter(error_class="timeout"), "redriven", reroute=True)
    [(key, _, headers)] = committed(settings, Topics(settings.topic_prefix).prompts)

    assert key == b"p-2"
    assert headers == {
        "uniroute-reply-to": "uniroute.replies.app",
        "uniroute-policy": "cheap",
        "uniroute-excluded": "a,z",
        "uniroute-max-cost-usd": "0.75",
    }


def bills(settings: Settings) -> list[dict[str, Any]]:
    """What dead letters had booked, as the learner reads it."""
    return [json.loads(value) for _, value, _ in committed(settings, Topics(settings.topic_prefix).usage)]


def test_what_is_decided_anew_is_billed_for_what_nobody_booked(settings: Settings) -> None:
    """The calls' .25 USD, under the id that the dispatch would have given it, for its decision."""
    handle_letters(settings, Filter(error_class="timeout"), "redriven", reroute=True)
    [bill] = bills(settings)

    assert bill["usage_id"] == f"{Topics(settings.topic_prefix).dispatch('a')}/0/7"
    assert (bill["decision_id"], bill["outcome"], bill["attempts"]) == ("token", "timeout", 2)
    assert bill["cost_usd"] == 0.25
    assert [call[1] for call in bill["calls"]] == ["server", "bad_response"]


def test_what_is_dropped_is_billed_too(settings: Settings) -> None:
    """Two letters, two bills; what is sent on as it was has its calls with it, and gets none."""
    handle_letters(settings, Filter(error_class="timeout"), "redriven")
    handle_letters(settings, Filter(error_class="server"), "dropped")

    assert [bill["prompt_id"] for bill in bills(settings)] == ["p-0", "p-1"]


def test_what_is_booked_is_billed_once(settings: Settings) -> None:
    """The executor's own letter came with its bill."""
    keep_failed(settings, "dead-letter")
    handle_letters(settings, Filter(error_class="bad_response"), "redriven", reroute=True)

    assert bills(settings) == []


def test_dead_letters_are_chosen_by_class_llm_and_time(settings: Settings) -> None:
    """Filters narrow; a time in the future leaves nothing."""
    later = datetime.now(UTC) + timedelta(hours=1)

    assert len(read_letters(settings, Filter(error_class="server"))) == 2
    assert len(read_letters(settings, Filter(llm="a", until=later))) == 3
    assert read_letters(settings, Filter(llm="b")) == []
    assert read_letters(settings, Filter(since=later)) == []


def test_the_command_lists_shows_and_drops(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is listed no more; nothing is handled without saying which."""
    monkeypatch.setenv("UNIROUTE_KAFKA_BOOTSTRAP", settings.kafka_bootstrap)
    monkeypatch.setenv("UNIROUTE_TOPIC_PREFIX", settings.topic_prefix)
    run = CliRunner()
    shown = json.loads(run.invoke(command, ["dlq", "show", "dispatch.a@0:1"]).stdout)
    dropped = run.invoke(command, ["dlq", "drop", "--class", "server", "--json"])
    listed = json.loads(run.invoke(command, ["dlq", "list", "--json"]).stdout)

    assert (shown["prompt_id"], shown["spent_usd"], shown["failed"]) == ("p-1", 0.25, ["a"])
    assert json.loads(dropped.stdout)["dropped"] == ["dispatch.a@0:0", "dispatch.a@0:1"]
    assert [one["prompt_id"] for one in listed] == ["p-2"]
    assert run.invoke(command, ["dlq", "redrive"]).exit_code != 0


def test_a_second_dispatch_starts_a_new_bill(settings: Settings) -> None:
    """The first one's 0.03 USD are booked: the second is billed its own 0.03, and has 0.97 left to spend."""
    keep_failed(settings, "dead-letter")
    handle_letters(settings, Filter(error_class="bad_response"), "redriven")
    [(key, value, headers)] = committed(settings, Topics(settings.topic_prefix).dispatch("a"))
    again = replace(message("p-1", settings, headers), value=value)
    [[_, usage]] = Bench({"a": always(answer())}).handle(again)

    assert (key, headers["uniroute-max-cost-usd"]) == (b"p-1", "0.97")
    assert [call[1] for call in body_of(usage)["calls"]] == ["ok"]
    assert body_of(usage)["cost_usd"] == pytest.approx(0.03)


def test_a_prompt_whose_caller_was_told_is_not_redriven(settings: Settings) -> None:
    """It would have a second reply."""
    keep_failed(settings, "both")
    [(letter, reason)] = handle_letters(settings, Filter(error_class="bad_response"), "redriven")[1]

    assert (letter.message.key, reason[:31]) == (b"p-1", "its caller has had an error rep")
    assert committed(settings, Topics(settings.topic_prefix).dispatch("a")) == []


def test_who_answered_has_not_failed(settings: Settings) -> None:
    """Of a cascade the LLM that answered may be asked again, and a scorer is no LLM."""
    calls = json.dumps([["b", "ok", 0.5], ["scorer", "timeout", 0.5], ["a", "server", 0.5]])
    letter = dead_letter(
        message("p-9", settings, {**HEADERS, "uniroute-calls": calls}),
        error_class="auth",
        sentence="no",
        attempts=1,
        topic_prefix=settings.topic_prefix,
    )
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send(letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers))
    producer.close()

    assert [one.failed for one in read_letters(settings, Filter(error_class="auth"))] == [frozenset("a")]
