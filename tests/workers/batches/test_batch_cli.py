import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from batch_benches import LLMS, Bench
from pyarrow import parquet
from typer.testing import CliRunner, Result

from workers.cli.main import command
from workers.errors import UsageError
from workers.storage.batches import Batches
from workers.storage.engine import transaction

pytestmark = pytest.mark.stack


def run(bench: Bench, *arguments: str) -> Result:
    """Run ``uniroute batch`` against the bench; an error of ours is raised."""
    return run_command(bench, "batch", *arguments)


def run_command(bench: Bench, *arguments: str) -> Result:
    """Run ``uniroute`` against the bench; an error of ours is raised."""
    return CliRunner().invoke(command, arguments, env=variables(bench), catch_exceptions=False)


def variables(bench: Bench) -> dict[str, str]:
    """What points ``uniroute`` at the bench."""
    settings = bench.installation.settings
    return {
        "UNIROUTE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "UNIROUTE_DATABASE_URL": settings.database_url,
        "UNIROUTE_TOPIC_PREFIX": settings.topic_prefix,
        "UNIROUTE_REPLY_PREFIX": settings.reply_prefix,
        "UNIROUTE_EMBEDDERS_FOLDER": str(settings.embedders_folder),
        "UNIROUTE_BATCHES_FOLDER": str(bench.store.root),
    }


def handed_in(bench: Bench) -> set[str]:
    """Give the ids of all batches."""
    with transaction(bench.installation.engine) as session:
        return {batch.id for batch in Batches(session).list()}


def test_an_interrupt_leaves_the_batch_running(bench: Bench) -> None:
    """Ctrl-C under ``--wait`` says how to come back, and whoever does sees the batch complete."""
    bench.kill("executor")  # it cannot complete before the interrupt
    before = handed_in(bench)
    process = subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, "-m", "workers", "batch", "submit", str(bench.write(20)), "--wait"],
        env={**os.environ, **variables(bench)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (found := handed_in(bench) - before):
        assert process.poll() is None
    (batch_id,) = found
    bench.wait(batch_id, lambda batch: batch.status == "in_progress")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    bench.serve("executor")

    watched = run(bench, "watch", batch_id)

    assert process.returncode == 130
    assert f"uniroute batch watch {batch_id}" in said
    assert (watched.exit_code, "20 done, 0 failed of 20" in watched.stdout) == (0, True)


def test_a_dry_run_plans_and_calls_nothing(bench: Bench) -> None:
    """The plan says lines, USD, quality and what binds; no batch comes of it."""
    before = [one["id"] for one in json.loads(run(bench, "list", "--json").stdout)]

    found = run(bench, "submit", str(bench.write(30)), "--dry-run", "--budget-usd", "0.001", "--json")

    plan = json.loads(found.stdout)
    assert (plan["lines"], plan["bad"], plan["binds"]) == (30, 0, "budget")
    assert plan["total_usd"] <= 0.001
    assert sum(share["lines"] for share in plan["llms"].values()) == 30
    assert [one["id"] for one in json.loads(run(bench, "list", "--json").stdout)] == before


def test_a_batch_is_followed_and_fetched_from_the_shell(bench: Bench, tmp_path: Path) -> None:
    """Submit, watch, show and fetch; the results are copied where they were asked for, too."""
    batch_id = run(bench, "submit", str(bench.write(25)), "--output", str(tmp_path / "out")).stdout.strip()

    watched = run(bench, "watch", batch_id)
    shown = json.loads(run(bench, "show", batch_id, "--json").stdout)
    fetched = run(bench, "fetch", batch_id, "--output", str(tmp_path)).stdout.split()

    assert watched.exit_code == 0
    assert (shown["status"], shown["completed"], shown["total"]) == ("completed", 25, 25)
    events = [entry["event"] for entry in shown["journal"]]
    assert events[:4] == ["submitted", "validated", "embedded", "planned"]
    assert [Path(path).name for path in fetched] == [f"{batch_id}.output.jsonl", f"{batch_id}.errors.jsonl"]
    copied = (tmp_path / "out" / f"{batch_id}.output.jsonl").read_bytes()
    assert copied == Path(fetched[0]).read_bytes()
    assert len(copied.splitlines()) == 25
    with pytest.raises(UsageError, match="completed"):
        run(bench, "pause", batch_id)


def test_an_output_that_cannot_be_written_is_told_at_once(bench: Bench, tmp_path: Path) -> None:
    """No batch comes of it; a folder that is missing is made, and nothing stays in it."""
    (tmp_path / "file").touch()
    before, file = handed_in(bench), str(bench.write(1))

    for place in (str(tmp_path / "file"), f"{tmp_path}/file/below", f"file://{tmp_path}/file/below"):
        with pytest.raises(UsageError, match="cannot be written"):
            run(bench, "submit", file, "--output", place)
    assert handed_in(bench) == before
    run(bench, "cancel", run(bench, "submit", file, "--output", f"file://{tmp_path}/new").stdout.strip())
    assert not list((tmp_path / "new").glob(".uniroute*"))


def test_results_that_were_not_copied_are_told(bench: Bench, tmp_path: Path) -> None:
    """A place that is gone when the batch ends: the one who waits hears of it, by the exit code too."""
    bench.kill("executor")  # it cannot complete before its place is gone
    batch_id = run(bench, "submit", str(bench.write(3)), "--output", str(tmp_path / "out")).stdout.strip()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").touch()
    bench.serve("executor")

    watched = run(bench, "watch", batch_id)

    assert watched.exit_code == 1
    assert "3 done" in watched.stdout
    assert "Not copied to" in watched.stdout


def test_a_batch_is_paused_resumed_cancelled_and_retried_from_the_shell(bench: Bench) -> None:
    """Each command says what came of it; the second batch takes up the lines that the first left."""
    batch_id = run(bench, "submit", str(bench.write(600))).stdout.strip()
    bench.wait(batch_id, lambda batch: batch.completed > 0)

    paused = run(bench, "pause", batch_id).stdout
    listed = run(bench, "list").stdout
    resumed = run(bench, "resume", batch_id).stdout
    run(bench, "pause", batch_id)
    cancelled = run(bench, "cancel", batch_id).stdout
    first = bench.wait(batch_id, lambda batch: batch.ended)
    retry_id = run(bench, "retry-failed", batch_id).stdout.strip()
    second = bench.wait(retry_id, lambda batch: batch.ended)

    assert (paused, resumed) == (f"{batch_id} is paused\n", f"{batch_id} is running\n")
    assert cancelled == f"{batch_id} is cancelling\n"
    assert batch_id[:12] in listed
    assert (first.status, second.status, second.failed) == ("cancelled", "completed", 0)
    assert first.completed + second.completed == 600
    assert run(bench, "watch", retry_id).exit_code == 0


@pytest.mark.parametrize("wrong", ["6", "h", "-1h", "0s", "1 week"])
def test_a_time_that_is_none_is_refused(bench: Bench, wrong: str) -> None:
    """The sentence says what would do."""
    with pytest.raises(UsageError, match="6h for example"):
        run(bench, "submit", str(bench.write(1)), "--deadline", wrong)


def test_a_table_is_submitted_by_its_columns(bench: Bench, tmp_path: Path) -> None:
    """Each row of a CSV file is a line; the dry run of the same file plans as many."""
    table = tmp_path / "questions.csv"
    table.write_text("id,question\na,what red apple\nb,what green pear\n", encoding="utf-8")
    mapping = ("--column", "prompt=question", "--column", "custom_id=id")

    plan = json.loads(run(bench, "submit", str(table), *mapping, "--dry-run", "--json").stdout)
    batch_id = run(bench, "submit", str(table), *mapping).stdout.strip()
    run(bench, "watch", batch_id)

    output = (bench.store.batch(batch_id).output).read_text(encoding="utf-8").splitlines()
    assert plan["lines"] == 2
    assert {json.loads(line)["custom_id"] for line in output} == {"a", "b"}


def test_a_data_lake_is_assigned_by_a_policy_in_force(bench: Bench, tmp_path: Path) -> None:
    """Nothing is called: each row of the folder gets the LLM that a prompt would be routed to."""
    lake, output = tmp_path / "lake", tmp_path / "out"
    lake.mkdir()
    parquet.write_table(pa.table({"prompt": ["what red apple", "what blue plum"]}), lake / "a.parquet")

    found = run_command(bench, "assign", str(lake), "--engine", "local", "--output", str(output))

    rows = parquet.read_table(output / "a.parquet").to_pylist()
    assert [row["llm"] in LLMS for row in rows] == [True, True]
    assert str(len(rows)) in found.stdout
