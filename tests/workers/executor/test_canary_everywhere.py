"""A key is searched for wherever a run with every fault leaves anything."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from exactly_once import CommittedReader
from faulty_gateway import CANARY, FAULTS, serving_aside
from installations import Installation
from kafka import KafkaConsumer, KafkaProducer
from sqlalchemy import text
from typer.testing import CliRunner

from workers.cli.main import command
from workers.local.stack import LocalStack
from workers.topics import create_topics, reply_topic

pytestmark = pytest.mark.stack

PATIENCE_S = 90.0
#: With two faults each, none is called so often in a row that it would be left alone.
LLMS = len(FAULTS) // 2
BODY = b'{"model": "auto", "messages": [{"role": "user", "content": "what red apple"}]}'


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation whose processes and commands find the key in the environment and in a file."""
    folder = tmp_path / "installation"
    folder.mkdir()
    with Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=folder
    ) as made:
        yield made


def run_command(*arguments: str) -> str:
    """Give all that a command writes."""
    result = CliRunner().invoke(command, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


async def respond(request: web.Request) -> web.StreamResponse:
    """Do the fault that the prompt's id tells."""
    return await FAULTS[int(request.headers["x-uniroute-prompt-id"])](request)


def ask_all(installation: Installation) -> None:
    """Send one prompt per fault, to the LLM that has it."""
    producer = KafkaProducer(bootstrap_servers=installation.settings.kafka_bootstrap)
    for number in range(len(FAULTS)):
        headers = [
            ("uniroute-reply-to", f"{installation.settings.reply_prefix}app".encode()),
            ("uniroute-candidates", f"llm-{number % LLMS}".encode()),
            ("uniroute-on-failure", b"both"),
        ]
        producer.send(installation.topics.prompts, key=str(number).encode(), value=BODY, headers=headers)
    producer.close()


def read_kafka(installation: Installation) -> str:
    """Give every record of the installation as text."""
    consumer = KafkaConsumer(bootstrap_servers=installation.settings.kafka_bootstrap)
    topics = {one for one in consumer.topics() if one.startswith(installation.settings.topic_prefix)}
    consumer.close()
    with CommittedReader(installation.settings.kafka_bootstrap, topics) as reader:
        reader.read_to_end()
        return "\n".join(str((one.topic, one.key, one.value, one.headers)) for one in reader.records)


def read_postgres(installation: Installation) -> str:
    """Give every row of every table as text."""
    with installation.engine.connect() as connection:
        names = connection.scalars(
            text("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        ).all()
        return "\n".join(
            f"{name} {row}"
            for name in names
            for row in connection.scalars(text(f"SELECT t::text FROM {name} AS t"))  # noqa: S608  # our tables
        )


def wait_for_books(installation: Installation) -> None:
    """Wait until the usage of every prompt is in Postgres."""
    deadline = time.monotonic() + PATIENCE_S
    with installation.engine.connect() as connection:
        while connection.scalar(text("SELECT count(*) FROM usage_entries")) < len(FAULTS):
            connection.rollback()
            assert time.monotonic() < deadline, "the learner has not booked the usage"
            threading.Event().wait(0.1)


def test_a_key_is_nowhere_but_where_it_is_referred_to(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every fault: in no topic, table, log, and no output of a command, ``--json`` or not."""
    settings, kept = installation.settings, tmp_path / "key"
    kept.write_text(f"{CANARY}\n")
    references = ["env:CANARY_KEY", f"file:{kept}"]
    for name, value in (
        ("CANARY_KEY", CANARY),
        ("UNIROUTE_KAFKA_BOOTSTRAP", settings.kafka_bootstrap),
        ("UNIROUTE_DATABASE_URL", settings.database_url),
        ("UNIROUTE_TOPIC_PREFIX", settings.topic_prefix),
    ):
        monkeypatch.setenv(name, value)
    create_topics(settings, [reply_topic(f"{settings.reply_prefix}app", settings)])
    with serving_aside(respond) as url:
        outputs = []
        for number in range(LLMS):
            installation.register(f"llm-{number}", base_url=url)
            outputs.append(run_command("llm", "set", f"llm-{number}", "--api-key", references[number % 2]))
        for role in ("router", "executor", "learner"):
            installation.serve(role)
        ask_all(installation)
        with CommittedReader(settings.kafka_bootstrap, [f"{settings.reply_prefix}app"]) as reader:
            reader.read_until(lambda seen: len(seen.records) >= len(FAULTS), timeout_s=PATIENCE_S)
        wait_for_books(installation)
    letters = run_command("dlq", "list", "--json")
    outputs += [letters, run_command("dlq", "list"), run_command("llm", "list")]
    outputs += [run_command("dlq", "show", one["id"]) for one in json.loads(letters)[:2]]
    outputs.append(run_command("llm", "list", "--json"))
    rows, records = read_postgres(installation), read_kafka(installation)
    logs = "\n".join(path.read_text(errors="replace") for path in installation.logs.glob("*.log"))

    assert len(json.loads(letters)) == len(FAULTS)
    assert "dead_letter" in records + logs
    assert all(reference in rows for reference in references)  # the tables were read indeed
    for found in (rows, records, logs, *outputs):
        assert CANARY not in found
