"""The demonstration of an offline batch, from the command line to its report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from outcome_folders import write_topics

pytestmark = [pytest.mark.stack, pytest.mark.model, pytest.mark.timeout(300)]

#: What the report tells of a batch, at the least.
KEYS = {
    "lines",
    "completed",
    "failed",
    "duplicated",
    "repeated_calls",
    "budget_usd",
    "spent_usd",
    "predicted_usd",
    "quality",
    "best_single_quality",
    "lines_per_second",
}


def test_a_folder_of_outcomes_is_run_as_one_batch(tmp_path: Path) -> None:
    """At 80 % of what the best LLM costs: each line comes out once, no call is repeated, the budget holds."""
    folder, report = write_topics(tmp_path / "recorded", n_llms=5, per_topic=100), tmp_path / "report.json"

    run = subprocess.run(  # noqa: S603  # ours
        [
            *(sys.executable, "-m", "workers", "demo", "--batch", "--outcomes", str(folder)),
            *("--budget-share", "0.8", "--report", str(report)),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    batch = json.loads(report.read_text())["batch"]
    assert set(batch) >= KEYS
    assert batch["completed"] + batch["failed"] == batch["lines"] > batch["failed"]
    assert (batch["duplicated"], batch["repeated_calls"]) == (0, 0)
    assert 0 < batch["spent_usd"] <= batch["budget_usd"]
    assert batch["predicted_usd"] <= batch["budget_usd"]
    assert 0 < batch["quality"] <= 1
    assert 0 < batch["best_single_quality"] <= 1
    assert batch["lines_per_second"] > 0
