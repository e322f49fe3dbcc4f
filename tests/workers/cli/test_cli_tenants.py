"""The commands of tenants, typed in order on a real Postgres."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

from routing.errors import RoutingError
from routing.llms import LLM, Price
from workers.cli.main import command
from workers.errors import UsageError
from workers.storage.engine import make_engine, transaction
from workers.storage.grants import Grants
from workers.storage.ledger import Ledger, Reservation, Settlement
from workers.storage.llms import LLMs, Registration
from workers.storage.policies import Policies
from workers.storage.snapshots import load_state

pytestmark = pytest.mark.stack

DAY = date(2027, 1, 31)
NOON = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp())
Cli = Callable[..., Any]


@pytest.fixture
def cli(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Type a command that prints JSON, where there are LLM ``a`` and policies ``default`` and ``own``."""
    monkeypatch.setenv("UNIROUTE_DATABASE_URL", migrated_url)
    engine = make_engine(migrated_url)
    with transaction(engine) as session:
        price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
        LLMs(session).register(
            Registration(llm=LLM(name="a", price=price), base_url="http://127.0.0.1:1/v1", provider_model="a")
        )
        for name in ("default", "own"):
            Policies(session).put(name, {"kind": "lagrangian", "error_per_usd": 1.0})
    engine.dispose()

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(command, ["tenant", *arguments, "--json"])
        if isinstance(result.exception, UsageError | RoutingError):
            return str(result.exception)
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.output)

    return run


def test_a_tenant_is_added_changed_and_listed(cli: Cli) -> None:
    """Each change leaves what it does not name; ``none`` takes a limit away."""
    cli(
        "add",
        "acme",
        "--usd-per-day",
        "20",
        "--usd-per-month",
        "400",
        "--llms",
        "a",
        "--policies",
        "own, default",
    )
    cli("set", "acme", "--at-limit", "degrade", "--usd-per-day", "none", "--default-policy", "own")
    cli("set", "acme", "--priority", "2.5", "--llms", "none")

    assert cli("list") == [
        {
            "name": "acme",
            "usd_per_day": None,
            "usd_per_month": 400.0,
            "policies": ["default", "own"],
            "llms": None,
            "default_policy": "own",
            "priority": 2.5,
            "at_limit": "degrade",
            "exploration_share": None,
        }
    ]


def test_a_tenant_ends_exploration(cli: Cli) -> None:
    """For good, with a floor, or back to what the policies say."""
    cli("add", "acme", "--no-exploration")
    ended = cli("list")[0]["exploration_share"]
    cli("set", "acme", "--exploration", "0.1")
    floor = cli("list")[0]["exploration_share"]
    cli("set", "acme", "--exploration", "none")

    assert (ended, floor) == (0.0, 0.1)
    assert cli("list")[0]["exploration_share"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add", "acme"), "exists already"),
        (("add", "zeta", "--usd-per-day", "-1"), "usd_per_day"),
        (("add", "zeta", "--exploration", "1.5"), "exploration_share"),
        (("add", "zeta", "--exploration", "some"), "--exploration is 'some'"),
        (("add", "zeta", "--usd-per-day", "much"), "--usd-per-day is 'much'"),
        (("add", "zeta", "--at-limit", "wait"), "at_limit"),
        (("add", "zeta", "--llms", "a,b"), "no LLM is named 'b'; known: a"),
        (("add", "zeta", "--policies", "cheap"), "no policy is named 'cheap'; known: default, own"),
        (("add", "zeta", "--policies", "own", "--default-policy", "default"), "default_policy"),
        (("set", "acme"), "nothing to change"),
        (("set", "zeta", "--priority", "2"), "no tenant is named 'zeta'; known: acme, default"),
        (("spend", "zeta"), "no tenant is named 'zeta'"),
        (("spend", "acme", "--day", "soon"), "--day is 'soon'"),
    ],
)
def test_what_cannot_be_is_one_sentence(cli: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    """A slip of the pen is told, and changes nothing."""
    cli("add", "acme")

    assert sentence in cli(*arguments)
    assert [one["name"] for one in cli("list")] == ["acme"]


def test_routers_see_a_tenant_at_once_and_its_end(cli: Cli, migrated_url: str) -> None:
    """The version that routers watch moves with each change; what was spent outlives the tenant."""
    engine = make_engine(migrated_url)
    versions, names = [], []
    for arguments in (
        ("add", "acme"),
        ("set", "default", "--usd-per-day", "1"),
        ("set", "acme", "--priority", "2"),
    ):
        cli(*arguments)
        with transaction(engine) as session:
            state = load_state(session)
        versions.append(state.version)
        names.append(sorted(state.tenants))
    result = CliRunner().invoke(command, ["tenant", "remove", "acme"])
    with transaction(engine) as session:
        left = load_state(session)
    engine.dispose()

    assert result.exit_code == 0
    assert versions == sorted(set(versions))
    assert names == [["acme"], ["acme", "default"], ["acme", "default"]]
    assert (sorted(left.tenants), left.version > versions[-1]) == (["default"], True)


def test_spend_shows_where_each_dollar_is(cli: Cli, migrated_url: str) -> None:
    """Of 1 USD: .5 lent, of which .2 were reserved by one decision in flight, and .07 and .04 settled by two.

    The last of these was degraded: its .04 are told apart, too.
    """
    cli("add", "acme", "--usd-per-day", "1", "--usd-per-month", "5")
    engine = make_engine(migrated_url)
    with transaction(engine) as session:
        grant = Grants(session).grant("acme", slot="r", day=DAY, need=Decimal("0.5"), share=0.0, lease_s=60)
        number = grant.id if grant else 0
        Ledger(session).book(
            [
                Reservation(
                    decision_id="d-1", decided_at=NOON, tenant="acme", llm="a", grant=number, usd=0.2
                ),
                Settlement(
                    usage_id="t/0/0",
                    decision_id="d-2",
                    decided_at=NOON,
                    tenant="acme",
                    llm="a",
                    failed=False,
                    usd=0.07,
                    input_tokens=3,
                    output_tokens=5,
                ),
                Settlement(
                    usage_id="t/0/1",
                    decision_id="d-3",
                    decided_at=NOON,
                    tenant="acme",
                    llm="a",
                    failed=False,
                    usd=0.04,
                    input_tokens=3,
                    output_tokens=5,
                    degraded=True,
                ),
            ]
        )
    engine.dispose()
    found = cli("spend", "acme", "--day", "2027-01-31")
    earlier = cli("spend", "acme", "--day", "2027-01-02")
    everybody = cli("spend")
    told = CliRunner().invoke(command, ["tenant", "spend", "acme", "--day", "2027-01-31"]).output

    assert found["day"] == {
        "utc": "2027-01-31",
        "budget_usd": 1.0,
        "granted_usd": 0.3,
        "reserved_usd": 0.2,
        "settled_usd": 0.11,
        "untold_usd": 0.0,
        "degraded_usd": 0.04,
        "remaining_usd": 0.39,
    }
    assert (found["month"]["remaining_usd"], found["month"]["utc"]) == (4.39, "2027-01")
    assert (earlier["day"]["remaining_usd"], earlier["month"]["remaining_usd"]) == (1.0, 4.39)
    assert found["llms"][0] == {
        "llm": "a",
        "replies": 2,
        "failures": 0,
        "untold": 0,
        "input_tokens": 6,
        "output_tokens": 10,
        "settled_usd": 0.11,
        "degraded": 1,
        "degraded_usd": 0.04,
    }
    assert [one["tenant"] for one in everybody] == ["acme", "default"]
    assert "acme, 2027-01-31: 0.04 of the settled USD are of prompts that the budget did not cover" in told


def test_tables_are_printed_without_json(cli: Cli) -> None:
    """People get a table."""
    cli("add", "acme", "--usd-per-day", "20")
    listed = CliRunner().invoke(command, ["tenant", "list"])
    spent = CliRunner().invoke(command, ["tenant", "spend"])

    told = CliRunner().invoke(command, ["tenant", "--help"])

    assert "acme" in listed.output
    assert "remaining" in spent.output
    assert "no such bound" in " ".join(told.output.replace("│", " ").split())
