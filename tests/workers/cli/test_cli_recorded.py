"""``uniroute policy simulate`` and ``uniroute assign`` from end to end, on a made-up folder of outcomes."""

import json
from pathlib import Path

import pytest
from outcome_folders import write_topics
from static_artifacts import write_static_artifact
from typer.testing import CliRunner

from routing.errors import InfeasibleError
from workers.cli.main import command
from workers.errors import UsageError
from workers.policies import load_policy_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 prompts, six LLMs at (k + 1) x 1e-4 USD a call."""
    return write_topics(tmp_path_factory.mktemp("outcomes") / "topics")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a few kilobytes."""
    return write_static_artifact(tmp_path_factory.mktemp("embedders"))


def run(*arguments: object) -> str:
    """Run a command and give what it printed; its own errors are raised."""
    result = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)

    assert result.exit_code == 0, result.output
    return result.output


def test_simulate_prints_and_reports(folder: Path, embedder: Path, tmp_path: Path) -> None:
    """Each policy of the file has a line and an entry."""
    file, report = tmp_path / "policies.yaml", tmp_path / "deep" / "report.json"
    file.write_text(
        "cheap: {kind: fixed, llm: llm-0}\nhalf: {kind: budget, share_of_best: 0.5}\n", encoding="utf-8"
    )

    printed = run(
        "policy", "simulate", file, "--outcomes", folder, "--embedder", embedder, "--prompts", 100,
        "--report", report,
    )  # fmt: skip

    found = json.loads(report.read_text(encoding="utf-8"))
    assert "cheap" in printed
    assert set(found["policies"]) == {"cheap", "half"}
    assert found["policies"]["cheap"]["cost_usd"] == pytest.approx(0.01)
    assert found["protocol"]["prompts"] == 100


def test_what_was_calibrated_is_written_to_be_applied(folder: Path, embedder: Path, tmp_path: Path) -> None:
    """A floor over the traffic gets its lambda; a share of what only outcomes tell has no live form."""
    file, live = tmp_path / "policies.yaml", tmp_path / "live.yaml"
    file.write_text(
        "floor: {kind: quality-floor, d: 0.1, fallbacks: [llm-1]}\n"
        "cheap: {kind: fixed, llm: llm-0}\n"
        "half: {kind: budget, share_of_best: 0.5}\n",
        encoding="utf-8",
    )

    printed = run("policy", "simulate", file, "--outcomes", folder, "--embedder", embedder, "--live", live)

    bodies = load_policy_file(live)
    assert set(bodies) == {"floor", "cheap"}
    assert {**bodies["floor"], "error_per_usd": 0.0} == {
        "kind": "quality-floor",
        "d": 0.1,
        "fallbacks": ["llm-1"],
        "over": "traffic",
        "error_per_usd": 0.0,
    }
    assert bodies["floor"]["error_per_usd"] > 0
    assert f"floor runs live as {json.dumps(bodies['floor'])}" in printed
    assert "cheap runs live" not in printed
    assert "half has no live form" in printed
    assert f"uniroute policy apply {live}" in printed.replace("\n", " ")


def test_simulate_names_the_file_the_policy_and_the_key(folder: Path, embedder: Path, tmp_path: Path) -> None:
    """A typing error is not simulated as something else."""
    file = tmp_path / "policies.yaml"
    file.write_text("half: {kind: budget, shareofbest: 0.5}\n", encoding="utf-8")

    with pytest.raises(UsageError, match=r"policies\.yaml: policy half: unknown key 'shareofbest'"):
        run("policy", "simulate", file, "--outcomes", folder, "--embedder", embedder)


def test_assign_prints_and_reports(folder: Path, embedder: Path, tmp_path: Path) -> None:
    """The whole set, within its budget and one LLM's capacity."""
    capacity, report = tmp_path / "capacity.yaml", tmp_path / "report.json"
    capacity.write_text("llm-5: {requests: 3}\n", encoding="utf-8")

    printed = run(
        "assign", folder, "--budget-usd", 0.07, "--capacity", capacity, "--embedder", embedder,
        "--report", report,
    )  # fmt: skip

    found = json.loads(report.read_text(encoding="utf-8"))
    assert "greedy" in printed
    assert (found["prompts"], found["llms"]) == (240, 6)
    assert found["cost_usd"] <= 0.07
    assert found["calls"].get("llm-5", 0) <= 3


def test_assign_says_what_is_short(folder: Path, embedder: Path) -> None:
    """240 prompts at 1e-4 USD each need .024."""
    with pytest.raises(InfeasibleError, match=r"short of budget_usd: 0\.004"):
        run("assign", folder, "--budget-usd", 0.02, "--embedder", embedder)
    with pytest.raises(UsageError, match="--budget-usd"):
        run("assign", folder, "--budget-usd", "nan", "--embedder", embedder)


def test_a_batch_is_rehearsed_on_recorded_outcomes(folder: Path, embedder: Path, tmp_path: Path) -> None:
    """Every line is answered within each budget, by the steps of a batcher, and held against one lambda."""
    report = tmp_path / "report.json"

    printed = run(
        "batch", "rehearse", folder, "--embedder", embedder, "--budget-share", 0.7, "--budget-share", 2,
        "--report", report,
    )  # fmt: skip

    found = json.loads(report.read_text(encoding="utf-8"))
    assert "of best" in printed
    assert [one["budget_share"] for one in found["budgets"]] == [0.7, 2.0]
    for one in found["budgets"]:
        assert (one["completed"], one["failed"]) == (240, 0)
        assert 0 < one["spent_usd"] <= one["budget_usd"]
        assert 0 <= one["quality"] <= 1
        assert one["plans"] > 1
