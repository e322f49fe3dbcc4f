"""The commands of feedback, error rates and drift, typed in order on a real Postgres."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from learner_bench import MAP, SIGNER
from sqlalchemy import Engine
from typer.testing import CliRunner

from routing.errors import RoutingError
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers.cli.main import command
from workers.decision_ids import DecisionFacts
from workers.errors import UsageError
from workers.learner import Learner, refit
from workers.messages import FeedbackEvent, Message
from workers.settings import Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import LLMs, Registration
from workers.storage.sources import Sources

pytestmark = pytest.mark.stack

NOW = 1_800_000_000
Cli = Callable[..., Any]


@pytest.fixture
def cli(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Type a command; give its JSON where it prints that, its text, or the sentence of its refusal."""
    monkeypatch.setenv("UNIROUTE_DATABASE_URL", migrated_url)
    engine = make_engine(migrated_url)
    prior = fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=(2,))
    with transaction(engine) as session:
        price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
        LLMs(session).register(
            Registration(llm=LLM(name="a", price=price), base_url="http://127.0.0.1:1/v1", provider_model="a")
        )
        ClusterMaps(session).activate(ClusterMaps(session).add(MAP, prior))
        Sources(session).declare("judge:liar", kind="judge")
    refit(engine, reason="start")
    give(engine, "human", 40, score=1.0)
    refit(engine, reason="first")
    give(engine, "judge:liar", 5, score=0.0)
    refit(engine, reason="second")
    engine.dispose()

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(command, arguments)
        if isinstance(result.exception, UsageError | RoutingError):
            return str(result.exception)
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.output) if "--json" in arguments else result.output

    return run


def give(engine: Engine, source: str, pieces: int, *, score: float) -> None:
    """Count feedback on LLM ``a`` in cell 0."""
    batch = []
    for number in range(pieces):
        token = SIGNER.sign(
            DecisionFacts(
                prompt_id=f"{source}-{number}",
                llm="a",
                map_version=MAP.version,
                cells=(0,),
                propensity=1.0,
                decided_at=NOW,
            )
        )
        event = FeedbackEvent(feedback_id=f"{source}-{number}", decision_id=token, score=score, source=source)
        batch.append(
            Message(
                topic="uniroute.feedback",
                partition=0,
                offset=number,
                timestamp_ms=NOW * 1000,
                key=b"k",
                value=msgspec.json.encode(event),
            )
        )
    learner = Learner(engine=engine, signer=SIGNER, settings=Settings(), clock=lambda: NOW)

    assert not any(learner.handle(batch))


def test_a_source_is_seen_left_out_and_taken_in_again(cli: Cli) -> None:
    """Nothing changes without --yes; the liar's five pieces are gone, and come back."""
    found = cli("feedback", "sources", "--json")
    shown = cli("feedback", "exclude", "--source", "judge:liar", "--json")
    kept = cli("rates", "show", "--json")["rates"]
    done = cli("feedback", "exclude", "--source", "judge:liar", "--yes", "--json")
    without = cli("rates", "show", "--json")["rates"]

    assert {name: one["kind"] for name, one in found.items()} == {"human": "human", "judge:liar": "judge"}
    assert found["judge:liar"]["weight"] == 0.5
    assert (shown["pieces"], shown["applied"], done["applied"]) == (5, False, True)
    assert shown["llms"] == done["llms"]
    assert without[0]["error"] <= kept[0]["error"]
    assert cli("feedback", "sources", "--json")["judge:liar"]["pieces"] == {"excluded": 5}
    assert "Nothing is changed yet" in cli("feedback", "include", "--source", "judge:liar")
    assert "5 pieces" in cli("feedback", "include", "--source", "judge:liar", "--yes")
    assert cli("feedback", "sources", "--json")["judge:liar"]["pieces"] == {"counted": 5}
    assert "no source is called" in cli("feedback", "exclude", "--source", "nobody")


def test_leaving_a_source_out_while_rates_are_held_says_so(cli: Cli) -> None:
    """What is learned without it waits for the release, and the command names both."""
    version = cli("rates", "history", "--json")[-1]["version"]
    cli("rates", "rollback", str(version))
    shown = cli("feedback", "exclude", "--source", "judge:liar", "--yes")

    assert f"Rates of version {version} are held" in shown
    assert "`uniroute rates release`" in shown
    cli("rates", "release")
    assert "held" not in cli("feedback", "include", "--source", "judge:liar", "--yes")
    assert cli("feedback", "include", "--source", "judge:liar", "--json")["held"] is None


def test_a_source_is_declared(cli: Cli) -> None:
    """Its kind, weight and cap are as declared; an impossible kind is refused in words."""
    cli("feedback", "declare", "grader", "--kind", "checker", "--weight", "0.75", "--per-hour", "100")
    found = cli("feedback", "sources", "--json")["grader"]

    assert (found["kind"], found["weight"], found["per_hour"]) == ("checker", 0.75, 100)
    assert "is none of" in cli("feedback", "declare", "x", "--kind", "oracle")


def test_a_source_is_flagged_though_the_rates_stay(cli: Cli) -> None:
    """The liar's pieces move nothing, so no version came of them; its flag is shown all the same."""
    found = cli("feedback", "sources", "--json")

    assert [one["reason"] for one in cli("rates", "history", "--json")] == ["first", "start"]
    assert (found["human"]["trust"], found["judge:liar"]["trust"]) == (1.0, 0.0)


def test_rates_are_shown_compared_and_rolled_back(cli: Cli) -> None:
    """The rates of the first version are in force again, held, until they are released."""
    versions = [one["version"] for one in cli("rates", "history", "--json")]
    [newest, first] = versions
    before = cli("rates", "show", str(first), "--json")["rates"]
    said = cli("rates", "rollback", str(first))
    now = cli("rates", "show", "--json")

    assert "rates release" in said
    assert (now["rates"], now["held"]) == (before, first)
    assert cli("rates", "diff", str(first), "--json")["llms"][0]["cells_moved"] == 0
    moved = cli("rates", "diff", str(first), str(newest), "--json")["llms"][0]
    assert moved["llm"] == "a"
    assert moved["largest_move"] > 0
    assert "in force" in cli("rates", "release")
    assert cli("rates", "show", "--json")["held"] is None
    assert "Nothing was held" in cli("rates", "release")
    assert "no version 999" in cli("rates", "rollback", "999")


def test_forgetting_is_declared(cli: Cli) -> None:
    """It is 231 pieces by default; what is declared is shown, and nonsense is refused."""
    assert cli("rates", "forgetting").startswith("231 pieces")
    assert cli("rates", "forgetting", "--half-life", "inf").startswith("inf pieces")
    assert cli("rates", "forgetting").startswith("inf pieces")
    assert "above 0" in cli("rates", "forgetting", "--half-life", "0")


def test_drift_is_told(cli: Cli, migrated_url: str) -> None:
    """Nothing but errors from an LLM that made none: it stands worse, and the alarm is listed."""
    engine = make_engine(migrated_url)
    give(engine, "checker", 60, score=0.0)
    engine.dispose()
    found = cli("drift", "status", "--json")

    assert found["llms"]["a"]["standing"] == "worse"
    assert found["llms"]["a"]["wants_probes"]
    assert [(one["llm"], one["change"]) for one in found["alarms"]] == [("a", "worse")]
    assert "a got worse" in cli("drift", "status")


def test_nonsense_is_refused_before_it_is_sent(cli: Cli, tmp_path: Path) -> None:
    """A file that cannot be used is named with its line; so is one without feedback."""
    file = tmp_path / "scores.jsonl"
    file.write_text('{"decision_id": "x", "scoer": 1}\n')

    assert "line 1" in cli("feedback", "import", str(file))
    file.write_text("")
    assert "holds no feedback" in cli("feedback", "import", str(file))
