"""The demonstration as a person runs it: what it promises to report, and what it leaves behind, nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from outcome_folders import write_topics

from workers.local.processes import wait_gone

pytestmark = [pytest.mark.stack, pytest.mark.model]

#: More than a run takes on a machine that is busy with other things.
LONG_SECONDS = 280.0
INTERRUPTED = 130
ROLES = ("router", "executor", "learner")
KEYS = {
    "prompts": int,
    "replies": int,
    "lost": int,
    "duplicate_replies": int,
    "dead_letters": int,
    "feedback_applied": int,
    "error_rate_versions": int,
    "seconds": float,
    "prompts_per_second": float,
}
LATENCIES = ("dispatch_p50", "dispatch_p99", "reply_p50", "reply_p99")
LLM_KEYS = {"name", "simulated", "share", "cost_usd", "quality", "share_before_join", "share_after_join"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    code: int
    out: str
    report: dict[str, Any]


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where a demonstration makes its folder, by whose name its processes are known; they end here."""
    yield tmp_path
    for process in find_processes(tmp_path):
        process.kill()


def start_demo(temporary: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a demonstration whose folder lies in ``temporary``."""
    return subprocess.Popen(  # noqa: S603  # this interpreter and this package
        [sys.executable, "-m", "workers", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_demo(temporary: Path, *arguments: str) -> Run:
    """Run a demonstration to its end."""
    file = temporary / "report.json"
    with start_demo(temporary, *arguments, "--report", str(file)) as demo:
        out, _ = demo.communicate(timeout=LONG_SECONDS)
    assert file.exists(), out
    return Run(code=demo.returncode, out=out, report=json.loads(file.read_text()))


def find_processes(temporary: Path) -> list[psutil.Process]:
    """Find the live processes of a demonstration: those that name its folder, or were told of it."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), process.environ().get("TMPDIR", "")]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(temporary) in text for text in told):
                found.append(process)
        except psutil.Error:  # gone, or of another account
            continue
    return found


def check_counts(report: dict[str, Any], prompts: int) -> None:
    """Every prompt is answered once, and every reply's score counted."""
    counted = [report[key] for key in ("prompts", "replies", "feedback_applied")]

    assert counted == [prompts] * 3
    assert [report[key] for key in ("lost", "duplicate_replies", "duplicate_decisions")] == [0, 0, 0]
    assert [report[key] for key in ("error_replies", "dead_letters")] == [0, 0]


def check_values(report: dict[str, Any]) -> None:
    """Every promised key holds a value that can be."""
    assert {key: type(report[key]) for key in KEYS} == KEYS
    assert report["error_rate_versions"] > len(report["llms"])
    assert report["prompts_per_second"] == pytest.approx(report["replies"] / report["seconds"], rel=0.01)
    latency = report["latency_ms"]
    assert set(latency) == set(LATENCIES)
    assert 0 < latency["dispatch_p50"] <= latency["dispatch_p99"]
    assert latency["dispatch_p50"] < latency["reply_p50"] <= latency["reply_p99"]
    for name in ("routed", "best_single", "cheapest", "random", "oracle"):
        assert report[name]["cost_usd"] > 0, name
        assert 0 <= report[name]["quality"] <= 1, name
    assert report["oracle"]["quality"] == max(
        report[name]["quality"] for name in ("routed", "best_single", "cheapest", "random", "oracle")
    )
    assert report["cheapest"]["cost_usd"] <= report["random"]["cost_usd"]


def check_llms(report: dict[str, Any]) -> None:
    """Each LLM is marked as simulated; shares and costs add up to the run's."""
    llms = report["llms"]

    assert all(set(llm) == LLM_KEYS and llm["simulated"] is True for llm in llms)
    assert sum(llm["share"] for llm in llms) == pytest.approx(1)
    assert sum(llm["share_before_join"] for llm in llms) == pytest.approx(1)
    assert sum(llm["share_after_join"] for llm in llms) == pytest.approx(1)
    assert sum(llm["cost_usd"] for llm in llms) == pytest.approx(report["routed"]["cost_usd"])
    assert {report["best_single"]["llm"], report["cheapest"]["llm"]} <= {llm["name"] for llm in llms}


def check_join(report: dict[str, Any]) -> None:
    """The better LLM joined on fewer labels than there are, and had its share within 200 routed prompts.

    They are counted from its registration, those that were routed while it was probed among them.
    """
    joined = report["joined"]

    assert (joined["llm"], joined["worse"], joined["adopted"]) == (report["late_llm"], False, True)
    assert 20 <= joined["labels_used"] <= 400
    assert 0 <= joined["adopted_after_prompts"] < joined["prompts_since"]
    assert joined["adopted_after_prompts"] <= joined["adopted_after_added"] <= 200
    assert 0 < joined["prompts_taken"] <= joined["prompts_since"]


def test_a_run_that_loses_its_router(temporary: Path) -> None:
    """With the router killed by SIGKILL on the way: 0 lost, 0 twice, as good as the best LLM and far cheaper.

    Decided again from the log every bit is the same; at twice its price the dearest LLM would have had less.

    The late LLM gets traffic once it has joined. Of 400 prompts a quality near .9 has a standard error of
    .015, and two of them differ by .02: hence .05 for chance.
    """
    run = run_demo(temporary, "--prompts", "400", "--kill-router", "--replay-check")

    report = run.report
    late = next(llm for llm in report["llms"] if llm["name"] == report["late_llm"])
    assert run.code == 0, run.out
    check_counts(report, 400)
    check_values(report)
    check_llms(report)
    assert report["routed"]["quality"] >= report["best_single"]["quality"] - 0.05
    assert report["routed"]["cost_usd"] <= 0.6 * report["best_single"]["cost_usd"]
    assert late["share_after_join"] > late["share_before_join"]
    check_join(report)
    replay = report["replay"]
    assert (replay["decisions"], replay["identical"]) == (400, 400)
    assert 0 <= replay["doubled"]["share_after"] < replay["doubled"]["share_before"]
    assert run.out.count("imulated") >= 4
    assert find_processes(temporary) == []
    assert not list(temporary.glob("uniroute-demo-*"))


def test_outcomes_are_played_back(temporary: Path) -> None:
    """A small folder of recorded outcomes runs the same way, slow calls too, and is said to be simulated."""
    folder = write_topics(temporary / "recorded", n_llms=5, per_topic=100)
    scenario = temporary / "faults.toml"
    scenario.write_text('[[fault]]\nkind = "latency"\nprobability = 0.2\nextra_s = 0.3\n')

    run = run_demo(temporary, "--prompts", "60", "--outcomes", str(folder), "--faults", str(scenario))

    assert run.code == 0, run.out
    check_counts(run.report, 60)
    check_values(run.report)
    check_llms(run.report)
    assert [llm["name"] for llm in run.report["llms"]] == [f"llm-{number}" for number in range(5)]
    assert "simulated" in run.out
    assert find_processes(temporary) == []


@pytest.mark.outcomes
def test_real_outcomes_are_played_back(temporary: Path, outcomes_dir: Path) -> None:
    """So does a folder of 28 real LLMs."""
    run = run_demo(temporary, "--prompts", "200", "--outcomes", str(outcomes_dir / "mmlupro28"))

    assert run.code == 0, run.out
    check_counts(run.report, 200)
    check_values(run.report)
    check_llms(run.report)
    assert len(run.report["llms"]) == 28


@pytest.mark.parametrize(
    ("number", "phrase"),
    [(signal.SIGINT, "Starting router"), (signal.SIGTERM, "Sending")],
    ids=["at set-up", "under traffic"],
)
def test_an_interrupted_run_leaves_nothing(temporary: Path, number: signal.Signals, phrase: str) -> None:
    """Ctrl-C and SIGTERM end every process and remove the folder; exit code 130."""
    with start_demo(temporary, "--prompts", "2000") as demo:
        assert demo.stdout is not None
        said = next((line for line in demo.stdout if phrase in line), None)
        started = find_processes(temporary)
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=LONG_SECONDS)

    assert said is not None
    assert len(started) > 2
    assert demo.returncode == INTERRUPTED, rest
    assert "Interrupted; everything that was started has ended." in rest
    assert "Traceback" not in rest
    assert wait_gone(started, timeout=0.0)
    assert find_processes(temporary) == []
    assert not list(temporary.glob("uniroute-demo-*"))


def test_faults_of_llms_that_there_are_not_are_refused_at_once(temporary: Path) -> None:
    """Nothing is started for a scenario that the simulated LLMs would refuse."""
    scenario = temporary / "faults.toml"
    scenario.write_text('[[fault]]\nkind = "hang"\nllms = ["nobody"]\n')
    with start_demo(temporary, "--faults", str(scenario)) as demo:
        out, _ = demo.communicate(timeout=LONG_SECONDS)

    assert demo.returncode == 2
    assert "names an unknown LLM 'nobody'" in out
    assert "Starting" not in out


def test_a_report_that_cannot_be_written_is_refused_at_once(temporary: Path) -> None:
    """The minute of the run is not spent before the place of its report is found to be none."""
    with start_demo(temporary, "--report", str(temporary / "none" / "report.json")) as demo:
        out, _ = demo.communicate(timeout=LONG_SECONDS)

    assert demo.returncode == 2
    assert out.endswith("report.json cannot be written: name a file in a folder that exists\n")
    assert len(out.splitlines()) == 1


def test_nobody_joins_who_is_neither_better_nor_worse(temporary: Path) -> None:
    """Nor a worse one among recorded LLMs: both are told before anything starts."""
    for arguments, sentence in (
        (("--join", "odd"), "--join is 'odd': known are better, worse"),
        (("--join", "worse", "--outcomes", str(temporary)), "joins with the built-in tasks alone"),
    ):
        with start_demo(temporary, *arguments) as demo:
            out, _ = demo.communicate(timeout=LONG_SECONDS)

        assert demo.returncode == 2
        assert sentence in out
        assert "Starting" not in out
