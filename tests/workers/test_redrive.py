"""A prompt that its LLM gave no answer is redriven to another: one reply, within what was left."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from exactly_once import CommittedReader
from faulty_gateway import serving_aside
from installations import Installation
from kafka import KafkaProducer
from typer.testing import CliRunner

from workers.cli.main import command
from workers.local.stack import LocalStack
from workers.topics import create_topics, reply_topic

pytestmark = pytest.mark.stack

PATIENCE_S = 90.0
BODY = b'{"model": "auto", "messages": [{"role": "user", "content": "what red apple"}]}'
#: At 1,000 USD per million tokens a call of 30 tokens costs .03 USD, answered or not.
USAGE = {"prompt_tokens": 10, "completion_tokens": 20}
DEADLINE = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """``bad`` is never wrong, so that it is chosen; ``good`` is half the time."""
    with (
        serving_aside(respond) as url,
        Installation.create(
            kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=tmp_path
        ) as made,
    ):
        made.register("bad", score=1.0, usd_per_mtok=1_000.0, base_url=url)
        made.register("good", score=0.5, usd_per_mtok=1_000.0, base_url=url)
        create_topics(made.settings, [reply_topic(f"{made.settings.reply_prefix}app", made.settings)])
        yield made


async def respond(request: web.Request) -> web.StreamResponse:
    """Answer as ``good``; as ``bad`` bill for an answer that is none."""
    model = (await request.json())["model"]
    said = [{"index": 0, "message": {"role": "assistant", "content": "apples"}}] if model == "good" else []
    return web.json_response({"id": "c", "choices": said, "usage": USAGE})


def ask(installation: Installation, prompt_id: str, budget: str) -> None:
    """Send a prompt that its caller would rather not have an error for."""
    headers = {
        "uniroute-reply-to": f"{installation.settings.reply_prefix}app",
        "uniroute-on-failure": "dead-letter",
        "uniroute-max-cost-usd": budget,
        "uniroute-deadline": DEADLINE,
    }
    producer = KafkaProducer(bootstrap_servers=installation.settings.kafka_bootstrap)
    producer.send(
        installation.topics.prompts,
        key=prompt_id.encode(),
        value=BODY,
        headers=[(name, text.encode()) for name, text in headers.items()],
    )
    producer.close()


def read(installation: Installation, topic: str, *, count: int) -> dict[str, tuple[bytes, Mapping[str, str]]]:
    """Wait for so many records, and give value and headers of all that are there by their keys."""
    with CommittedReader(installation.settings.kafka_bootstrap, [topic]) as reader:
        reader.read_until(lambda seen: len(seen.records) >= count, timeout_s=PATIENCE_S)
        reader.read_to_end()
        assert len(reader.records) == count
        return {
            one.key.decode(): (
                one.value,
                {name.removeprefix("uniroute-"): value.decode() for name, value in one.headers},
            )
            for one in reader.records
        }


def test_a_prompt_that_failed_is_answered_once_by_another(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its id, not by the LLM that failed, by its deadline, for what is left of its budget.

    Of 1 USD that is .97. Asked again, nothing is redriven.
    """
    settings, topics = installation.settings, installation.topics
    monkeypatch.setenv("UNIROUTE_KAFKA_BOOTSTRAP", settings.kafka_bootstrap)
    monkeypatch.setenv("UNIROUTE_TOPIC_PREFIX", settings.topic_prefix)
    for role in ("router", "executor"):
        installation.serve(role)
    ask(installation, "p-1", "1.0")
    ask(installation, "p-2", "1.0")
    letters = read(installation, topics.dead_letters(topics.dispatch("bad")), count=2)
    first = CliRunner().invoke(command, ["dlq", "redrive", "--reroute", "--llm", "bad", "--json"])
    second = CliRunner().invoke(command, ["dlq", "redrive", "--reroute", "--all", "--json"])
    replies = read(installation, f"{settings.reply_prefix}app", count=2)
    dispatches = read(installation, topics.dispatch("good"), count=2)
    value, headers = replies["p-1"]

    assert letters["p-1"][1]["llm"] == "bad"
    assert len(json.loads(first.stdout)["redriven"]) == 2
    assert json.loads(second.stdout) == {"redriven": [], "refused": []}
    assert json.loads(value)["choices"][0]["message"]["content"] == "apples"
    assert (headers["llm"], headers["attempt"]) == ("good", "1")
    assert float(headers["cost-usd"]) == pytest.approx(0.03)
    assert float(dispatches["p-1"][1]["max-cost-usd"]) == pytest.approx(0.97)
    assert dispatches["p-1"][1]["deadline"] == DEADLINE
