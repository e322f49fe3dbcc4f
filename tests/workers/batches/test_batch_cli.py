import json
from pathlib import Path

import pytest
from batch_benches import Bench
from typer.testing import CliRunner, Result

from workers.cli.batch import command
from workers.errors import UsageError

pytestmark = pytest.mark.stack


def run(bench: Bench, *arguments: str) -> Result:
    """Run ``uniroute batch`` against the bench; an error of ours is raised."""
    settings = bench.installation.settings
    variables = {
        "UNIROUTE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "UNIROUTE_DATABASE_URL": settings.database_url,
        "UNIROUTE_TOPIC_PREFIX": settings.topic_prefix,
        "UNIROUTE_REPLY_PREFIX": settings.reply_prefix,
        "UNIROUTE_EMBEDDERS_FOLDER": str(settings.embedders_folder),
        "UNIROUTE_BATCHES_FOLDER": str(bench.store.root),
    }
    return CliRunner().invoke(command, arguments, env=variables, catch_exceptions=False)


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
    assert [entry["event"] for entry in shown["journal"]][:3] == ["submitted", "validated", "planned"]
    assert [Path(path).name for path in fetched] == [f"{batch_id}.output.jsonl", f"{batch_id}.errors.jsonl"]
    copied = (tmp_path / "out" / f"{batch_id}.output.jsonl").read_bytes()
    assert copied == Path(fetched[0]).read_bytes()
    assert len(copied.splitlines()) == 25
    with pytest.raises(UsageError, match="completed"):
        run(bench, "pause", batch_id)


@pytest.mark.parametrize("wrong", ["6", "h", "-1h", "0s", "1 week"])
def test_a_time_that_is_none_is_refused(bench: Bench, wrong: str) -> None:
    """The sentence says what would do."""
    with pytest.raises(UsageError, match="6h for example"):
        run(bench, "submit", str(bench.write(1)), "--deadline", wrong)
