"""A key is searched for wherever a run with every fault leaves anything."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from exactly_once import CommittedReader
from faulty_gateway import CANARY, FAULTS, answer, serving_aside
from installations import Installation
from kafka import KafkaConsumer, KafkaProducer
from sqlalchemy import text
from typer.testing import CliRunner

from workers.cli.main import command
from workers.local.ports import choose_ports
from workers.local.stack import LocalStack
from workers.topics import create_topics, reply_topic

pytestmark = pytest.mark.stack

PATIENCE_S = 90.0
#: With two faults each, none is called so often in a row that it would be left alone; a scorer with eight.
LLMS = len(FAULTS) // 2
SCORED = 8
SCORERS = -(-len(FAULTS) // SCORED)
#: Faults that leave an answer: a latency, and no usage.
ANSWERED = 2
BODY = b'{"model": "auto", "messages": [{"role": "user", "content": "what red apple"}]}'
#: Every command that reads what a run left; it is asked with ``--json``, too.
READERS = (
    ("llm", "list"),
    ("llm", "journal"),
    ("policy", "list"),
    ("policy", "show", "judged-0"),
    ("policy", "history", "judged-0"),
    ("price", "list"),
    ("price", "history", "llm-0"),
    ("tenant", "list"),
    ("tenant", "spend", "default"),
    ("explain", "what red apple", "--policy", "judged-0"),
    ("replay",),
    ("rates", "show"),
    ("drift", "status"),
    ("topics",),
    ("dlq", "list"),
)


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
    """Do the fault that the prompt's id tells; of a cascade it is the scorer that has it."""
    kind, _, number = request.headers["x-uniroute-prompt-id"].partition("-")
    model = (await request.json())["model"]
    if kind == "scored" and not model.startswith("scorer"):
        return await answer(request)
    return await FAULTS[int(number)](request)


def write_policies(url: str, references: Sequence[str]) -> str:
    """Write cascades, each with a scorer that has a key of its own, as a file for ``policy apply``."""
    return json.dumps(
        {
            f"judged-{number}": {
                "kind": "cascade",
                "llms": ["llm-0", "llm-1"],
                "accept": 0.9,
                "confidence": "scorer",
                "scorer": {
                    "base_url": url,
                    "model": f"scorer-{number}",
                    "api_key": references[number % 2],
                    "input_price": 1.0,
                    "output_price": 1.0,
                    "timeout_s": 1.0,
                },
            }
            for number in range(SCORERS)
        }
    )


def ask_all(installation: Installation) -> None:
    """Send one prompt per fault to the LLM that has it, and one to a cascade whose scorer has it."""
    producer = KafkaProducer(bootstrap_servers=installation.settings.kafka_bootstrap)

    def ask(prompt_id: str, wishes: Mapping[str, str]) -> None:
        headers = {
            "uniroute-reply-to": f"{installation.settings.reply_prefix}app",
            "uniroute-on-failure": "both",
            **wishes,
        }
        producer.send(
            installation.topics.prompts,
            key=prompt_id.encode(),
            value=BODY,
            headers=[(name, text.encode()) for name, text in headers.items()],
        )

    for number in range(len(FAULTS)):
        ask(f"asked-{number}", {"uniroute-candidates": f"llm-{number % LLMS}"})
        ask(
            f"scored-{number}",
            {"uniroute-policy": f"judged-{number // SCORED}", "uniroute-cache-seconds": "60"},
        )
    producer.close()


def read_metrics(ports: Sequence[int]) -> str:
    """Give the metrics of every role."""
    pages = []
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            pages.append(page.read().decode())
    return "\n".join(pages)


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
        while connection.scalar(text("SELECT count(*) FROM usage_entries")) < 2 * len(FAULTS):
            connection.rollback()
            assert time.monotonic() < deadline, "the learner has not booked the usage"
            threading.Event().wait(0.1)


def read_commands() -> list[str]:
    """Give what every command tells of the run, as a table and as JSON."""
    told = [run_command(*reader, *more) for reader in READERS for more in ((), ("--json",))]
    letters = json.loads(run_command("dlq", "list", "--json"))
    assert len(letters) == len(FAULTS) - ANSWERED
    told += [run_command("dlq", "show", one["id"]) for one in letters[:3]]
    told.append(run_command("dlq", "redrive", "--all", "--json"))
    told.append(run_command("dlq", "drop", "--all", "--json"))
    return told


def test_a_key_is_nowhere_but_where_it_is_referred_to(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLMs and scorers with every fault: in no topic, table, log, metric, or output of a command."""
    settings, kept = installation.settings, tmp_path / "key"
    kept.write_text(f"{CANARY}\n")
    references = ["env:CANARY_KEY", f"file:{kept}"]
    for name, value in (
        ("CANARY_KEY", CANARY),
        ("UNIROUTE_KAFKA_BOOTSTRAP", settings.kafka_bootstrap),
        ("UNIROUTE_DATABASE_URL", settings.database_url),
        ("UNIROUTE_TOPIC_PREFIX", settings.topic_prefix),
        ("UNIROUTE_EMBEDDERS_FOLDER", str(installation.embedders)),
    ):
        monkeypatch.setenv(name, value)
    create_topics(settings, [reply_topic(f"{settings.reply_prefix}app", settings)])
    with serving_aside(respond) as url:
        outputs = []
        for number in range(LLMS):
            installation.register(f"llm-{number}", base_url=url)
            outputs.append(run_command("llm", "set", f"llm-{number}", "--api-key", references[number % 2]))
        policies = tmp_path / "policies.json"
        policies.write_text(write_policies(url, references))
        outputs.append(run_command("policy", "apply", str(policies), "--json"))
        ports = choose_ports(3)
        for role, port in zip(("router", "executor", "learner"), ports, strict=True):
            installation.serve(role, web_port=port, environment={"UNIROUTE_CALL_TIMEOUT_S": "1"})
        ask_all(installation)
        with CommittedReader(settings.kafka_bootstrap, [f"{settings.reply_prefix}app"]) as reader:
            reader.read_until(lambda seen: len(seen.records) >= 2 * len(FAULTS), timeout_s=PATIENCE_S)
        wait_for_books(installation)
        outputs.append(read_metrics(ports))
    outputs += read_commands()
    rows, records = read_postgres(installation), read_kafka(installation)
    logs = "\n".join(path.read_text(errors="replace") for path in installation.logs.glob("*.log"))

    assert "dead_letter" in records + logs
    assert "0.9 Bearer ***" in records  # answers were kept, without the key
    assert all(reference in rows for reference in references)  # the tables were read indeed
    for found in (rows, records, logs, *outputs):
        assert CANARY not in found
