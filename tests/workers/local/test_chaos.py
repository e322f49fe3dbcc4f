"""The endurance run: how it counts, and that nothing is lost while everything is broken once."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from workers.local.chaos.accounts import Ends, count_repeated, find_broken

KEYS = {
    "prompts": int,
    "replies": int,
    "dead_letters": int,
    "lost": int,
    "duplicate_replies": int,
    "repeated_calls": int,
    "repeated_calls_seen_by_llms": int,
    "crashes_not_caused": int,
    "seconds": float,
    "events": list,
}


def call(prompt_id: str, llm: str, attempt: int | None) -> dict[str, Any]:
    """One call as the simulated LLMs list it."""
    return {"prompt_id": prompt_id, "llm": llm, "callers_attempt": attempt}


def test_a_call_made_again_is_a_second_first_try() -> None:
    """Retries are second tries; another LLM, and a caller that does not count, begin nothing anew."""
    calls = [
        call("a", "x", 1),
        call("a", "x", 2),
        call("a", "x", 1),
        call("a", "x", 1),
        call("a", "y", 1),
        call("b", "x", 1),
        call("b", "x", None),
    ]

    assert count_repeated(calls) == 2


WHOLE = {
    "lost": 0,
    "repeated_calls": 3,
    "repeated_calls_seen_by_llms": 2,
    "crashes_not_caused": 0,
    "events": [{"recovered_in_s": 1.5}],
}


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        ({"duplicate_replies": 0}, 0),
        ({"duplicate_replies": 1}, 1),
        ({"repeated_calls": 1}, 1),
        ({"events": [{"recovered_in_s": None}]}, 1),
        ({"crashes_not_caused": 1}, 1),
        ({"acts": 1, "status": "completed", "events": [{"what": "a kill"}]}, 0),
        ({"acts": 2, "status": "completed", "events": [{"what": "a kill"}]}, 1),
        ({"acts": 1, "status": "failed", "spent_usd": 0.2, "budget_usd": 0.1}, 2),
        ({"spent_usd": 0.2, "unsettled_usd": 0.2, "budget_usd": 0.3}, 1),
    ],
)
def test_each_broken_promise_is_named(figures: dict[str, Any], broken: int) -> None:
    """A call that was made again and not counted, something that never recovered, an act that never came."""
    assert len(find_broken({**WHOLE, **figures})) == broken


def test_every_prompt_has_one_end() -> None:
    """One reply or one dead letter; neither is lost, both or two are duplicates."""
    ends = Ends(
        replies=Counter({"once": 1, "twice": 2, "both": 1}),
        dead_letters=Counter({"letter": 1, "both": 1}),
        repeated_calls=0,
    )
    ids = ("once", "twice", "both", "letter", "neither")

    assert ends.count_lost(ids) == 1
    assert ends.count_duplicates(ids) == 2


@pytest.mark.stack
@pytest.mark.model
@pytest.mark.timeout(900)
def test_nothing_is_lost_while_everything_breaks(tmp_path: Path) -> None:
    """Workers killed and frozen, the broker killed, Postgres away, an LLM failing: one end per prompt."""
    report = tmp_path / "chaos.json"
    shorter = ["--prompts", "200", "--away", "3", "--session", "3"]

    done = subprocess.run(  # noqa: S603  # this interpreter and this package
        [sys.executable, "-m", "workers", "chaos", *shorter, "--report", str(report)],
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert {name: type(found[name]) for name in KEYS} == KEYS
    assert found["replies"] + found["dead_letters"] == found["prompts"] == 200
    assert (found["lost"], found["duplicate_replies"], found["crashes_not_caused"]) == (0, 0, 0)
    assert found["repeated_calls"] >= found["repeated_calls_seen_by_llms"]
    assert len(found["events"]) == 8
    assert all(event["recovered_in_s"] is not None for event in found["events"])


def test_a_report_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    """The minutes of the run are not spent before the place of its report is found to be none."""
    done = subprocess.run(  # noqa: S603  # this interpreter and this package
        [sys.executable, "-m", "workers", "chaos", "--report", str(tmp_path / "none" / "report.json")],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "cannot be written: name a file in a folder that exists" in done.stderr + done.stdout
