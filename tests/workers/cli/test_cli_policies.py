"""The commands of policies, prices, explanations and replays, typed in order on a real Kafka and Postgres."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import Result
from installations import SIGNING_KEY, TEXTS, Installation
from kafka import KafkaProducer
from typer.testing import CliRunner

from routing.costs import rate_call
from workers.cli.main import command
from workers.decision_ids import DecisionSigner
from workers.messages import Message
from workers.policies import Budget
from workers.replay import read_decisions
from workers.router import Router, build_view
from workers.router.pacing import HELD_BACK, period_start
from workers.storage.call_costs import BookedCall, CallBooks
from workers.storage.engine import transaction
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.policy_books import PolicyBooks
from workers.storage.prices import Prices
from workers.storage.snapshots import load_state

pytestmark = pytest.mark.stack

Cli = Callable[..., Result]


@pytest.fixture
def installation(kafka_bootstrap: str, database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """Two LLMs: ``large`` is always right and costs ten times what ``small`` does, right half the time."""
    with Installation.create(
        kafka_bootstrap=kafka_bootstrap, database_url=database_url, folder=tmp_path
    ) as made:
        made.register("large", score=1.0, usd_per_mtok=10.0)
        made.register("small", score=0.5, usd_per_mtok=1.0)
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


def read(result: Result) -> Any:
    """Give what a command printed as JSON."""
    return json.loads(result.stdout)


def route(installation: Installation, prompts: int, *, start: int = 0) -> None:
    """Log the decisions of a router for so many prompts."""
    with transaction(installation.engine) as session:
        view = build_view(load_state(session), open_embedder=lambda _: installation.embedder)
    router = Router(
        view=lambda: view,
        signer=DecisionSigner({0: SIGNING_KEY.encode()}, current=0),
        settings=installation.settings,
        rng=np.random.default_rng(0),
    )
    reply_to = f"{installation.settings.reply_prefix}app".encode()
    batch = [
        Message(
            topic=installation.topics.prompts,
            partition=0,
            offset=start + row,
            timestamp_ms=0,
            key=f"p-{start + row}".encode(),
            value=msgspec.json.encode(
                {"model": "auto", "messages": [{"role": "user", "content": TEXTS[row % len(TEXTS)]}]}
            ),
            headers=(("uniroute-reply-to", reply_to),),
        )
        for row in range(prompts)
    ]
    producer = KafkaProducer(bootstrap_servers=installation.settings.kafka_bootstrap)
    for records in router.handle(batch):
        for record in records:
            if record.topic == installation.topics.decisions:
                producer.send(record.topic, key=record.key, value=record.value)
    producer.flush()
    producer.close()


def test_policies_are_planned_applied_and_rolled_back(
    installation: Installation, cli: Cli, tmp_path: Path
) -> None:
    """A plan is applied once; then, or after one more prompt, it is refused; rollback brings it back."""
    route(installation, 40)
    file = tmp_path / "policies.yaml"
    # ``large`` costs some .0026 USD and ``small`` .00026: at 20 a USD ``large`` wins, at 1,000 ``small``.
    file.write_text("default: {kind: lagrangian, error_per_usd: 1e3}\ncanary: {kind: fixed, llm: small}\n")

    plan = read(cli("policy", "plan", file, "--json"))
    text = cli("policy", "plan", file).stdout
    route(installation, 1, start=40)
    moved = cli("policy", "apply", file, "--plan", plan["hash"], code=1)
    again = read(cli("policy", "plan", file, "--json"))
    applied = read(cli("policy", "apply", file, "--plan", again["hash"], "--json"))
    stale = cli("policy", "apply", file, "--plan", again["hash"], code=1)

    assert plan["decisions"] == 40
    assert plan["moved"] == 40
    assert plan["llms"]["large"]["before"]["share"] == 1.0
    assert plan["llms"]["small"]["after"]["share"] == 1.0
    assert plan["changes"] == [
        "  + canary: kind: fixed, llm: small",
        "  ~ default: error_per_usd: 20.0 -> 1000.0",
    ]
    assert "40 of 40 decisions would go to another LLM." in text
    assert "none of these decisions was made by canary" in text
    assert f"--plan {plan['hash']}" in text
    assert again["decisions"] == 41
    assert applied == {"default": 2, "canary": 1}
    assert "has moved since" in str(moved.exception)
    assert "has moved since" in str(stale.exception)

    assert "with the body of version 1" in cli("policy", "rollback", "default").stdout
    assert [one["version"] for one in read(cli("policy", "history", "default", "--json"))] == [3, 2, 1]
    assert read(cli("policy", "show", "default", "--json"))["body"]["error_per_usd"] == 20.0
    assert "error_per_usd: 1000.0" in cli("policy", "show", "default", "--version", 2).stdout
    assert read(cli("policy", "list", "--json"))["canary"] == {"version": 1, "kind": "fixed", "llm": "small"}


def test_logged_traffic_is_replayed(installation: Installation, cli: Cli, tmp_path: Path) -> None:
    """Unchanged it is identical, in a stretch of time too; with prices or a policy changed it is a plan."""
    route(installation, 30)
    prices, policies = tmp_path / "prices.yaml", tmp_path / "policies.yaml"
    prices.write_text("large: {input_usd_per_mtok: 1000, output_usd_per_mtok: 1000}\n")
    policies.write_text("default: {kind: weighted, weights: {large: 1, small: 1}}\n")

    assert read(cli("replay", "--json")) == {"decisions": 30, "identical": 30, "changed": []}
    assert read(cli("replay", "--last", 7, "--json"))["decisions"] == 7
    assert (
        read(cli("replay", "--from", "2026-01-01", "--to", "2999-01-01T00:00:00Z", "--json"))["identical"]
        == 30
    )
    assert read(cli("replay", "--to", "2026-01-01", "--json"))["decisions"] == 0
    assert "30 of 30 decisions came out the same" in cli("replay").stdout
    dearer = read(cli("replay", "--prices", prices, "--json"))
    assert dearer["identical"] == 0
    assert dearer["plan"]["llms"]["large"]["after"]["share"] == 0.0
    drawn = read(cli("replay", "--policy", policies, "--json"))
    assert 0 < drawn["identical"] < 30
    assert len(drawn["changed"]) == 30 - drawn["identical"]
    assert "decisions would go to another LLM" in cli("replay", "--policy", policies).stdout
    assert "is no time" in str(cli("replay", "--from", "yesterday", code=1).exception)


def test_a_stretch_of_time_is_decided_again_to_the_last(
    installation: Installation, cli: Cli, tmp_path: Path
) -> None:
    """1,010 decisions: all of them where a time is given, else the last 1,000, and that is said."""
    route(installation, 1_010)
    file = tmp_path / "policies.yaml"
    file.write_text("default: {kind: lagrangian, error_per_usd: 1e3}\n")
    window = ("--from", "2026-01-01")

    replayed, unbounded = cli("replay", *window).stdout, cli("replay").stdout
    planned = read(cli("policy", "plan", file, *window, "--json"))
    text = cli("policy", "plan", file, *window).stdout
    applied = read(cli("policy", "apply", file, "--plan", planned["hash"], *window, "--json"))

    assert "1010 decisions made again, of 20" in replayed
    assert "1010 of 1010 decisions came out the same" in replayed
    assert "took no more" not in replayed
    assert "1000 decisions made again, of 20" in unbounded
    assert "--last 1000 took no more" in unbounded
    assert planned["decisions"] == 1_010
    assert f"--plan {planned['hash']} --from 2026-01-01" in text
    assert applied == {"default": 2}


def test_prices_and_facts_have_versions(cli: Cli, tmp_path: Path) -> None:
    """What is not given stays; history only grows; a name that nobody has is told."""
    cli("price", "set", "large", "--output-price", 40, "--cached-input-price", 2.5)
    file = tmp_path / "prices.yaml"
    file.write_text("small: {input_usd_per_mtok: 2, output_usd_per_mtok: 3, fixed_usd: 0.001}\n")
    cli("price", "set", "--file", file)

    prices = read(cli("price", "list", "--json"))
    history = read(cli("price", "history", "large", "--json"))

    assert {name: one["output_usd_per_mtok"] for name, one in prices.items()} == {"large": 40.0, "small": 3.0}
    assert prices["large"]["input_usd_per_mtok"] == 10.0
    assert prices["large"]["cached_input_usd_per_mtok"] == 2.5
    assert prices["small"]["fixed_usd"] == 0.001
    assert [one["output_usd_per_mtok"] for one in history] == [40.0, 10.0]
    assert "no LLM is named 'huge'" in str(cli("price", "set", "huge", "--input-price", 1, code=1).exception)
    assert "give an LLM with at least one price" in str(cli("price", "set", "large", code=1).exception)

    cli("llm", "set", "small", "--context-length", 1000, "--capability", "tools", "--capability", "json")
    cli("llm", "set", "small", "--base-url", "http://127.0.0.1:9/v1")
    [small] = [one for one in read(cli("llm", "list", "--json")) if one["name"] == "small"]
    assert small["context_length"] == 1000
    assert small["capabilities"] == ["json", "tools"]
    assert small["base_url"] == "http://127.0.0.1:9/v1"
    assert "give what is to change" in str(cli("llm", "set", "small", code=1).exception)
    assert "no LLM is named 'huge'" in str(cli("llm", "set", "huge", "--simulated", code=1).exception)


def test_a_price_is_set_for_later(cli: Cli) -> None:
    """It is in the history and not in force; two together, a past time and no time at all are told."""
    text = cli("price", "set", "large", "--input-price", 5, "--valid-from", "2999-01-01T00:00:00Z").stdout
    history = read(cli("price", "history", "large", "--json"))
    past = str(
        cli("price", "set", "large", "--input-price", 5, "--valid-from", "2020-01-01", code=1).exception
    )
    never = str(cli("price", "set", "large", "--input-price", 5, "--valid-from", "soon", code=1).exception)

    assert "is version 3, in force from 2999-01-01 00:00:00 UTC on." in text
    assert [(one["input_usd_per_mtok"], one["state"]) for one in history] == [
        (5.0, "later"),
        (10.0, "in force"),
    ]
    assert history[0]["valid_from"] == "2999-01-01T00:00:00+00:00"
    assert read(cli("price", "list", "--json"))["large"]["input_usd_per_mtok"] == 10.0
    assert "later" in cli("price", "history", "large").stdout
    assert "is past" in past
    assert "'soon' is no time" in never


def test_settled_calls_are_compared_and_charged_again(
    cli: Cli, installation: Installation, tmp_path: Path
) -> None:
    """What was predicted beside what it cost; at another version or a file's prices what it would cost.

    large: 3,000 tokens at 10 USD a million are .03; at 20 they are .06. small stays as it was.
    """
    now = int(datetime.now(UTC).timestamp())
    with transaction(installation.engine) as session:
        prices = Prices(session).current()
        for name, tokens in (("large", 1_000), ("large", 2_000), ("small", 500)):
            price = prices[name]
            rated = rate_call(price.price, version=str(price.version), input_tokens=tokens, output_tokens=0)
            CallBooks(session).add(
                [BookedCall(tenant="acme", decided_at=now, llm=name, rated=rated, predicted_usd=0.02)]
            )
    cli("price", "set", "large", "--input-price", 20)
    version = read(cli("price", "list", "--json"))["large"]["version"]
    file = tmp_path / "prices.yaml"
    file.write_text("large: {input_usd_per_mtok: 5, output_usd_per_mtok: 0}\n")

    listed = read(cli("price", "list", "--json"))
    then = read(cli("price", "rerate", "--version", version, "--json"))
    before = read(cli("price", "rerate", "--version", version - 1, "--json"))
    by_file = read(cli("price", "rerate", "--file", file, "--json"))
    text = cli("price", "rerate", "--file", file).stdout
    later = cli("price", "rerate", "--since", "2999-01-01").stdout
    nobody = read(cli("price", "rerate", "--tenant", "nobody", "--json"))

    large = listed["large"]
    assert (large["settled_usd"], large["predicted_usd"]) == pytest.approx((0.03, 0.04))
    assert (large["calibration"], listed["small"]["calibration"]) == pytest.approx((0.75, 0.025))
    assert then["llms"]["large"] == pytest.approx(
        {"calls": 2, "settled_usd": 0.03, "rerated_usd": 0.06, "difference_usd": 0.03}
    )
    assert then["llms"]["small"]["difference_usd"] == pytest.approx(0)
    assert then["total"]["difference_usd"] == pytest.approx(0.03)
    assert before["total"]["difference_usd"] == pytest.approx(0)
    assert by_file["llms"]["large"]["rerated_usd"] == pytest.approx(0.015)
    assert by_file["llms"]["small"]["rerated_usd"] is None
    assert "left out of the sum: small" in text
    assert "Nothing was settled since 2999-01-01" in later
    assert nobody["llms"] == {}
    assert "no price has version 99" in str(cli("price", "rerate", "--version", 99, code=1).exception)
    both = cli("price", "rerate", "--version", 1, "--file", file, code=1)
    assert "give --version or --file" in str(both.exception)


def test_a_decision_is_explained(cli: Cli) -> None:
    """Clusters, each LLM with its error and interval, what removed which, and why the winner wins."""
    found = read(cli("explain", TEXTS[0], "--capabilities", "", "--json"))
    limited = read(cli("explain", TEXTS[0], "--max-cost-usd", 0.001, "--json"))
    none = read(cli("explain", TEXTS[0], "--capabilities", "tools", "--candidates", "small", "--json"))
    text = cli("explain", TEXTS[0]).stdout

    assert found["llm"] == "large"
    assert found["removed"] == {}
    assert [one["name"] for one in found["candidates"]] == ["large", "small"]
    low, high = found["candidates"][0]["interval"]
    assert low <= found["candidates"][0]["predicted_error"] <= high
    assert found["reason"].startswith("large scores least, ")
    assert found["clusters"][0]["weight"] >= found["clusters"][1]["weight"] > 0
    assert limited["llm"] == "small"
    assert limited["removed"] == {"large": "max_cost"}
    assert limited["reason"] == "small is the only LLM that the limits leave."
    assert none["llm"] is None
    assert none["removed"] == {"large": "candidates", "small": "capabilities"}
    assert none["reason"] == "No LLM is left within the limits."
    assert "policy default@1 (kind: lagrangian, error_per_usd: 20.0)" in text
    assert "no policy is named 'other'" in str(cli("explain", "x", "--policy", "other", code=1).exception)


def test_a_cascade_is_explained_stage_by_stage(cli: Cli, tmp_path: Path) -> None:
    """Whom it asks, what all of it costs, how likely the second is asked, and what a budget must hold."""
    file = tmp_path / "policies.yaml"
    scorer = "{base_url: 'http://127.0.0.1:1', model: s, input_price: 1, output_price: 1}"
    file.write_text(
        "two: {kind: cascade, llms: [small, large], accept: 0.9, confidence: scorer, "
        f"scorer: {scorer}}}\n"
        "three: {kind: cascade, llms: [small, large], error_per_usd: 1e6, "
        "calibration: {confidences: [0], chances: [0.5]}}\n"
    )
    cli("policy", "apply", file)
    cli("tenant", "add", "scant", "--usd-per-day", 0.0027)
    found = read(cli("explain", TEXTS[0], "--policy", "two", "--json"))
    dear = read(cli("explain", TEXTS[0], "--policy", "three", "--json"))
    short = read(cli("explain", TEXTS[0], "--policy", "two", "--tenant", "scant", "--json"))
    text = cli("explain", TEXTS[0], "--policy", "two").stdout
    first, second = found["stages"]
    error = first["predicted_error"]

    assert [stage["llm"] for stage in found["stages"]] == ["small", "large"]
    assert second["cost_so_far_usd"] == pytest.approx(first["cost_usd"] + second["cost_usd"])
    assert first["asked"] == [1.0, 1.0]
    assert second["asked"] == pytest.approx([max(0.0, 1 - (1 - error) / 0.9), min(1.0, error / 0.1)])
    assert (first["scoring_usd"] > 0, second["scoring_usd"]) == (True, 0.0)
    assert [stage["llm"] for stage in dear["stages"]] == ["small"]  # nobody else is worth its cost
    # ``large`` alone costs some .0026 USD; with ``small`` and the scorer it is more than there is.
    assert short["tenant"]["short"]
    assert "The cascade asks, as far as an answer is not sure enough" in text
    assert read(cli("explain", TEXTS[0], "--json"))["stages"] == []


def test_a_paced_decision_is_explained_at_the_lambda_in_force(
    cli: Cli, tmp_path: Path, installation: Installation
) -> None:
    """First at the lambda that it starts from; then at the one that a router told last, with what is left."""
    file = tmp_path / "policies.yaml"
    file.write_text("paced: {kind: budget, usd: 2, per: day, error_per_usd: 7}\n")
    cli("policy", "apply", file)
    before = read(cli("explain", TEXTS[0], "--policy", "paced", "--json"))
    budget = Budget(usd=2.0, period_s=86_400.0)
    start = period_start(budget, datetime.now(UTC))
    with transaction(installation.engine) as session:
        books = PolicyBooks(session)
        books.tell("paced", start, slot="router-0", prompts=3, expected_usd=0.1, error_per_usd=40.0)
        books.add([{"policy": "paced", "period_start": start, "settled_usd": 0.5, "reserved_usd": 0.25}])
    after = read(cli("explain", TEXTS[0], "--policy", "paced", "--json"))

    assert (before["pacing"]["error_per_usd"], before["pacing"]["router"]) == (7.0, None)
    assert "at lambda 7, which is where it starts" in before["reason"]
    assert (after["pacing"]["error_per_usd"], after["pacing"]["router"]) == (40.0, "router-0")
    assert after["pacing"]["left_usd"] == pytest.approx(2.0 * (1 - HELD_BACK) - 0.75)
    assert "at lambda 40, in force at router router-0 at" in after["reason"]


def test_a_decision_is_explained_to_its_tenant(cli: Cli, tmp_path: Path) -> None:
    """Its LLMs, its policies, its default policy and what is left of its budget are those of a router."""
    file = tmp_path / "policies.yaml"
    file.write_text("thrifty: {kind: lagrangian, error_per_usd: 1e3}\n")
    cli("policy", "apply", file)
    cli("tenant", "add", "narrow", "--llms", "small")
    cli("tenant", "add", "frugal", "--policies", "thrifty", "--default-policy", "thrifty")
    cli("tenant", "add", "poor", "--usd-per-day", 0.0005)
    cli("tenant", "add", "humble", "--usd-per-month", 0.0005, "--at-limit", "degrade")

    narrow, frugal, poor, humble = (
        read(cli("explain", TEXTS[0], "--tenant", name, "--json"))
        for name in ("narrow", "frugal", "poor", "humble")
    )

    assert (narrow["llm"], narrow["removed"]) == ("small", {"large": "candidates"})
    assert narrow["tenant"] == {"name": "narrow", "left_usd": None, "short": False}
    assert (frugal["llm"], frugal["policy"]) == ("small", "thrifty@1")
    # ``large`` costs some .0026 USD.
    assert (poor["llm"], poor["tenant"]["left_usd"], poor["tenant"]["short"]) == (None, 0.0005, True)
    assert "has 0.0005 USD left, less than the 0.002595 that" in poor["reason"]
    assert "gets an error reply" in poor["reason"]
    assert (humble["llm"], humble["tenant"]["short"]) == ("small", True)
    assert "the cheapest LLM, flagged as degraded" in humble["reason"]
    assert "tenant poor; 0.0005 USD left of its budget" in cli("explain", "x", "--tenant", "poor").stdout
    cli("tenant", "add", "curious", "--exploration", 0.5)
    curious = read(cli("explain", TEXTS[0], "--tenant", "curious", "--json"))
    assert curious["body"]["explore"]["share"] == 0.5
    forbidden = cli("explain", "x", "--tenant", "frugal", "--policy", "default", code=1)
    assert "tenant frugal may not use policy 'default'; allowed: thrifty" in str(forbidden.exception)
    assert "no tenant is named 'gone'" in str(cli("explain", "x", "--tenant", "gone", code=1).exception)


def test_policies_are_valued_on_logged_traffic(installation: Installation, cli: Cli, tmp_path: Path) -> None:
    """The default sends all to ``large``, right each time: worth 1; nothing is said of ``small``, exit 1."""
    route(installation, 20)
    file = tmp_path / "policies.yaml"
    file.write_text("same: {kind: lagrangian, error_per_usd: 20.0}\nother: {kind: fixed, llm: small}\n")
    records = read_decisions(installation.settings, last=20)
    with transaction(installation.engine) as session:
        Feedback(session).record(
            [
                FeedbackEntry(
                    feedback_id=record.prompt_id,
                    decision_id=record.decision_id,
                    prompt_id=record.prompt_id,
                    llm=record.llm,
                    map_version=record.versions.map,
                    cells=record.cells,
                    score=1.0,
                    event_time=record.decided_at,
                )
                for record in records
            ]
        )

    found = read(cli("policy", "evaluate", file, "--last", 20, "--json", code=1))
    text = cli("policy", "evaluate", file, code=1).stdout
    of_default = ("--policy", "default", "--tenant", "default", "--json")
    kept = read(cli("policy", "evaluate", file, *of_default, code=1))

    assert kept["decisions"] == 20
    for option in ("--policy", "--tenant"):
        refused = cli("policy", "evaluate", file, option, "another", code=1).exception
        assert "of 0 decisions, 0 have feedback" in str(refused)
    assert (found["decisions"], found["used"]) == (20, 20)
    assert found["policies"]["same"]["snips"]["value"] == pytest.approx(1.0)
    assert found["policies"]["same"]["effective_size"] == pytest.approx(20)
    assert len(found["policies"]["other"]["lacking"]) == 20
    assert "other: no estimate. 20 of 20 logged decisions could not have chosen" in text
