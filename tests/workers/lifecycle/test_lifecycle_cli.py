"""A new LLM's way in and out as an operator types it: a real executor and broker, a simulated LLM."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from installations import SIGNING_KEY, Installation
from typer.testing import CliRunner

from routing.learning import Watch
from workers.cli.main import command
from workers.client import Client
from workers.local.simulated.process import ServerProcess, outcome_arguments
from workers.local.simulated.tasks import draw_task
from workers.messages import FeedbackEvent, UsageRecord
from workers.reading import read_all
from workers.storage.engine import transaction
from workers.storage.watches import KeptWatch, Watches

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


@contextmanager
def judge_serving(secret: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a judge that finds answers right which hold the reference; give its address and what it read."""
    asked: list[dict[str, Any]] = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told = json.loads(body["messages"][1]["content"])
            asked.append(told)
            allowed = self.headers["Authorization"] == f"Bearer {secret}"
            right = told.get("reference", "Red") in told["answer"]["content"]
            completion = {
                "choices": [{"message": {"role": "assistant", "content": "1.0" if right else "0.25"}}],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 2, "total_tokens": 1002},
            }
            value = json.dumps(completion).encode()
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(value)))
            self.end_headers()
            self.wfile.write(value)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_judge_grades_what_no_checker_does(installation: Installation, cli: Cli, tmp_path: Path) -> None:
    """Labels leave answers to it, and live traffic has none: both are graded, told and booked by its price.

    Each judgement costs 1,000 tokens at 10 USD a million and 2 at 20: .01004 USD. Its key reaches executors
    by reference alone. Copies of live prompts go where their callers allow it, and nobody is sent a reply.
    """
    tasks = [draw_task(0, index) for index in range(8)]
    references = tmp_path / "references.jsonl"
    references.write_bytes(
        b"\n".join(
            msgspec.json.encode({"prompt": task.prompt, "answer": task.answer, "checker": "judge"})
            for task in tasks
        )
    )
    add = ("--input-price", "0.1", "--output-price", "0.1", "--provider-model", "sim-maestro", "--probe")
    with (
        ServerProcess.start(outcome_arguments(outcomes=None, seed=0)) as server,
        judge_serving("a secret of the judge's") as (judge_url, asked),
    ):
        installation.serve("executor", environment={"JUDGE_KEY": "a secret of the judge's"})
        judge = (
            *("--judge-url", judge_url, "--judge-model", "j", "--judge-key", "env:JUDGE_KEY"),
            *("--judge-input-price", 10, "--judge-output-price", 20),
        )
        cli("llm", "add", "labelled", "--base-url", server.base_url, *add)
        cli("llm", "add", "copied", "--base-url", server.base_url, *add)
        told = read(cli("llm", "onboard", "labelled", "--labels", references, *judge, "--json"))
        with Client(app="callers", settings=installation.settings) as client:
            for number, task in enumerate(tasks):
                client.submit(task.prompt, candidates=["old"] if number < 3 else [])
        seen = len(asked)
        copied = read(
            cli("llm", "onboard", "copied", "--from-traffic", "--share", 1, "--max-usd", 1, *judge, "--json")
        )

    assert told["labels"] + told["failures"] == 8
    assert told["judge_usd"] == pytest.approx(0.01004 * told["labels"])
    assert 0 < told["cost_usd"] < 0.01
    assert 0.25 < told["mean_score"] <= 1
    assert {one["reference"] for one in asked[:seen]} == {task.answer for task in tasks}
    assert copied["labels"] + copied["failures"] == 5
    assert all("reference" not in one for one in asked[seen:])
    assert list(read_all(installation.settings, [f"{installation.settings.reply_prefix}callers"])) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "give --labels FILE, or --from-traffic"),
        (("--from-traffic",), "name a judge"),
        (("--from-traffic", "--judge-url", "http://j/v1"), "give --judge-model, --judge-input-price"),
    ],
)
def test_who_grades_must_be_said(cli: Cli, arguments: tuple[str, ...], problem: str) -> None:
    """Live prompts have no answers, and a judge is never free: it is told before anything is asked."""
    result = cli("llm", "onboard", "old", *arguments, code=1)

    assert problem in str(result.exception)


def test_an_llm_that_got_worse_is_probed_again(installation: Installation, cli: Cli, tmp_path: Path) -> None:
    """Stored prompts reach it through an executor; each score is feedback, its cost booked as sampling."""
    references = write_references(tmp_path / "references.jsonl", 10)
    with ServerProcess.start(outcome_arguments(outcomes=None, seed=0)) as server:
        cli(
            *("llm", "add", "new", "--base-url", server.base_url, "--provider-model", "sim-maestro"),
            *("--input-price", "0", "--output-price", "0", "--fixed-price", "0.01"),
        )
        with transaction(installation.engine) as session:
            Watches(session).lock(["new"])
            Watches(session).keep({"new": KeptWatch(watch=Watch(standing="worse"))})
        installation.serve("executor")
        usd = ("--max-usd-per-day", 0.1)
        found = read(cli("llm", "sample", "--labels", references, *usd, "--for-s", 0, "--json"))

    settings = installation.settings
    given = [
        msgspec.json.decode(record.value, type=FeedbackEvent)
        for record in read_all(settings, [installation.topics.feedback])
    ]
    usage = [
        msgspec.json.decode(record.value, type=UsageRecord)
        for record in read_all(settings, [installation.topics.usage])
    ]
    assert (found["asked"], found["scored"], found["usd"]) == (10, 10, pytest.approx(0.1))
    assert {one.source for one in given} == {"checker:sampling"}
    assert len({one.decision_id for one in given}) == 10
    assert {(one.policy, one.lane, one.policy_period > 0) for one in usage} == {("sampling@1", "probe", True)}


def test_programs_are_run_on_a_word_alone(cli: Cli, tmp_path: Path) -> None:
    """Labels that have what an LLM wrote run are refused without --run-programs, before anything is asked."""
    file = tmp_path / "references.jsonl"
    file.write_text('{"prompt": "Print 4.", "answer": "4", "checker": "program"}')

    result = cli("llm", "onboard", "old", "--labels", file, code=1)
    allowed = cli("llm", "onboard", "old", "--labels", file, "--run-programs", code=1)

    assert "may do whatever this account may" in str(result.exception)
    assert "old is active" in str(allowed.exception)


def test_sampling_needs_somebody_who_grades(cli: Cli) -> None:
    """A judge for copies, or prompts with answers."""
    result = cli("llm", "sample", "--max-usd-per-day", 1, code=1)

    assert "give a judge" in str(result.exception)
