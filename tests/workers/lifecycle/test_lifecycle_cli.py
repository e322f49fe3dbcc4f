"""A new LLM's way in and out as an operator types it: a real executor and broker, a simulated LLM."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from installations import SIGNING_KEY, Installation
from typer.testing import CliRunner

from workers.cli.main import command
from workers.local.simulated.process import ServerProcess, outcome_arguments
from workers.local.simulated.tasks import draw_task

pytestmark = pytest.mark.stack

Cli = Callable[..., Result]


@pytest.fixture
def installation(kafka_bootstrap: str, database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """``old`` is right half of the time."""
    with Installation.create(
        kafka_bootstrap=kafka_bootstrap, database_url=database_url, folder=tmp_path
    ) as made:
        made.register("old", score=0.5)
        yield made


@pytest.fixture
def cli(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Type a command of the installation's; it must end with ``code``."""
    settings = installation.settings
    for name, value in {
        "KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "DATABASE_URL": settings.database_url,
        "TOPIC_PREFIX": settings.topic_prefix,
        "REPLY_PREFIX": settings.reply_prefix,
        "SIGNING_KEY": SIGNING_KEY,
        "EMBEDDERS_FOLDER": str(settings.embedders_folder),
    }.items():
        monkeypatch.setenv(f"UNIROUTE_{name}", value)

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def write_references(file: Path, count: int) -> Path:
    """Write tasks that the simulated LLMs know, with their answers and checkers."""
    tasks = [draw_task(0, index) for index in range(count)]
    lines = [
        {
            "prompt": task.prompt,
            "answer": task.answer,
            "checker": task.checker,
            **({"pattern": task.pattern} if task.pattern else {}),
        }
        for task in tasks
    ]
    file.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
    return file


def read(result: Result) -> Any:
    """Give what a command printed as JSON."""
    return json.loads(result.stdout)


def test_an_llm_is_probed_tried_and_removed(installation: Installation, cli: Cli, tmp_path: Path) -> None:
    """Probes cross the executor and are graded; a better LLM is a shadow, a canary, drained and retired."""
    references = write_references(tmp_path / "references.jsonl", 60)
    with ServerProcess.start(outcome_arguments(outcomes=None, seed=0)) as server:
        installation.serve("executor")
        cli(
            *("llm", "add", "new", "--probe", "--base-url", server.base_url, "--simulated"),
            *("--provider-model", "sim-maestro", "--input-price", "0.1", "--output-price", "0.1"),
        )
        told = cli("llm", "onboard", "new", "--labels", references, "--most", 40, "--json")
        found = read(told)

    assert found["failures"] == 0
    assert 20 <= found["labels"] <= 40
    assert found["mean_score"] > 0.6
    assert found["cost_usd"] > 0
    assert read(cli("llm", "list", "--json"))[0]["state"] == "shadow"

    assert cli("llm", "promote", "new", "--share", 0.2, "--force").stdout == "new is canary.\n"
    assert cli("llm", "demote", "new").stdout == "new is shadow.\n"
    assert cli("llm", "drain", "new").stdout == "new is draining.\n"
    assert cli("llm", "promote", "new").stdout == "new is shadow.\n"
    assert cli("llm", "remove", "new", "--reason", "enough").stdout == "new is retired.\n"
    assert cli("llm", "remove", "new").stdout == "new is retired.\n"
    steps = read(cli("llm", "journal", "new", "--json"))
    assert [step["to"] for step in steps] == [
        *("probe", "shadow", "canary", "shadow", "draining", "shadow", "draining", "retired")
    ]
    assert steps[1]["evidence"]["labels"] == found["labels"]
    assert steps[-1]["reason"] == "enough"
    assert "probed with" in cli("llm", "journal").stdout


def test_what_waits_for_an_llm_keeps_it_from_retiring(installation: Installation, cli: Cli) -> None:
    """With no executor, a prompt that was dispatched stays unanswered: the LLM is draining, exit code 1."""
    from kafka import KafkaProducer  # noqa: PLC0415  # this test alone produces

    producer = KafkaProducer(bootstrap_servers=installation.settings.kafka_bootstrap)
    producer.send(installation.topics.dispatch("old"), key=b"p", value=b"{}")
    producer.close()

    said = cli("llm", "remove", "old", "--patience-s", 0, code=1).stdout

    assert "prompts wait for it still" in said
    assert read(cli("llm", "list", "--json"))[0]["state"] == "draining"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "a", "answer": "4", "checker": "guess"}', "guess"),
        ('{"prompt": "a", "answer": "four", "checker": "numeric"}', "cannot be checked"),
        ('{"prompt": "a", "answer": "b", "checker": "regex", "pattern": "("}', "cannot be checked"),
        ('{"prompt": "a", "answer": "b", "checker": "regex", "pattern": "c"}', "refuses the answer"),
    ],
)
def test_a_reference_that_cannot_be_checked_is_told(
    cli: Cli, tmp_path: Path, line: str, problem: str
) -> None:
    """The line and the reason, before anything is asked."""
    file = tmp_path / "references.jsonl"
    file.write_text('{"prompt": "a", "answer": "yes"}\n' + line)

    result = cli("llm", "onboard", "old", "--labels", file, code=1)

    assert "line 2" in str(result.exception)
    assert problem in str(result.exception)
