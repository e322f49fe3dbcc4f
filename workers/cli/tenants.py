"""``uniroute tenant``: who pays for prompts, what each may use and spend, and what it has spent."""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.grants import Balance, Grants
from workers.storage.ledger import Ledger
from workers.storage.llms import LLMs
from workers.storage.policies import Policies
from workers.storage.tenants import DEFAULT_TENANT, Tenant, Tenants

command = typer.Typer(
    no_args_is_help=True,
    help="Add, list, change and remove tenants; show what they spend.\n\nA budget holds but for what prompts "
    "in flight cost beyond what was reserved for them. A tenant that is to be degraded at its limit has no "
    "such bound: every prompt beyond the budget is answered by its cheapest LLM and paid for, however many "
    "come; so it is while Postgres cannot be asked what is left. `tenant spend` shows what that cost.",
)

_NONE = "none"

Name = Annotated[str, typer.Argument(help="Its name: what prompts say in the header uniroute-tenant.")]
UsdPerDay = Annotated[
    str | None,
    typer.Option("--usd-per-day", "--budget-usd-per-day", help="Budget of a UTC day; none for no limit."),
]
UsdPerMonth = Annotated[
    str | None,
    typer.Option(
        "--usd-per-month", "--budget-usd-per-month", help="Budget of a UTC month; none for no limit."
    ),
]
PolicyNames = Annotated[
    str | None, typer.Option("--policies", help="Policies it may ask for, separated by commas; none for any.")
]
LLMNames = Annotated[
    str | None, typer.Option("--llms", help="LLMs it may use, separated by commas; none for any.")
]
DefaultPolicy = Annotated[
    str | None, typer.Option(help="Policy of its prompts that name none; none for the installation's.")
]
Priority = Annotated[
    float | None,
    typer.Option(
        help="Weight (1 if not given) of its prompts among those of others that wait for an LLM in the same "
        "lane: at 2 it gets two turns for each of theirs."
    ),
]
AtLimit = Annotated[
    str | None,
    typer.Option(
        help="Beyond the budget, or while nobody can say what is left: error, or degrade: its cheapest LLM, "
        "flagged. What degrade spends beyond the budget has no bound."
    ),
]
Exploration = Annotated[
    str | None,
    typer.Option(
        help="Least share of its prompts, 0..1, that is explored with; none for what the policies say."
    ),
]
NoExploration = Annotated[bool, typer.Option("--no-exploration", help="Never explore with its prompts.")]


@command.command("add")
def add(
    name: Name,
    *,
    usd_per_day: UsdPerDay = None,
    usd_per_month: UsdPerMonth = None,
    policies: PolicyNames = None,
    llms: LLMNames = None,
    default_policy: DefaultPolicy = None,
    priority: Priority = None,
    at_limit: AtLimit = None,
    exploration: Exploration = None,
    no_exploration: NoExploration = False,
    as_json: AsJson = False,
) -> None:
    """Declare a tenant; routers know it from the next second on, with no restart."""
    changes = _changes(
        usd_per_day=usd_per_day,
        usd_per_month=usd_per_month,
        policies=policies,
        llms=llms,
        default_policy=default_policy,
        priority=priority,
        at_limit=at_limit,
        exploration_share="0" if no_exploration else exploration,
    )
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        tenant = Tenant(name=name, **changes)
        _check_names(session, tenant)
        Tenants(session).add(tenant)
    _tell(tenant, "is added", as_json=as_json)


@command.command("set")
def set_tenant(
    name: Name,
    *,
    usd_per_day: UsdPerDay = None,
    usd_per_month: UsdPerMonth = None,
    policies: PolicyNames = None,
    llms: LLMNames = None,
    default_policy: DefaultPolicy = None,
    priority: Priority = None,
    at_limit: AtLimit = None,
    exploration: Exploration = None,
    no_exploration: NoExploration = False,
    as_json: AsJson = False,
) -> None:
    """Change what is given of a tenant, and leave the rest. The default tenant need not be added first."""
    changes = _changes(
        usd_per_day=usd_per_day,
        usd_per_month=usd_per_month,
        policies=policies,
        llms=llms,
        default_policy=default_policy,
        priority=priority,
        at_limit=at_limit,
        exploration_share="0" if no_exploration else exploration,
    )
    if not changes:
        raise UsageError("nothing to change: give at least one option")
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        tenant = replace(Tenants(session).get(name), **changes)
        _check_names(session, tenant)
        Tenants(session).set(tenant)
    _tell(tenant, "is changed", as_json=as_json)


@command.command("remove")
def remove(name: Name) -> None:
    """Forget a tenant: its prompts are refused from the next second on. What it has spent is kept."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        Tenants(session).remove(name)
    typer.echo(f"{name} is removed.")


@command.command("list")
def list_tenants(*, as_json: AsJson = False) -> None:
    """List the tenants that were declared."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = list(Tenants(session).list().values())
    if as_json:
        print_json([_describe(one) for one in found])
        return
    print_table(
        ("name", "USD a day", "USD a month", "at limit", "policies", "LLMs", "default policy", "priority"),
        [
            (
                one.name,
                _show(one.usd_per_day),
                _show(one.usd_per_month),
                one.at_limit,
                _show_names(one.policies),
                _show_names(one.llms),
                one.default_policy or "-",
                f"{one.priority:g}",
            )
            for one in found
        ],
        empty="No tenant is declared: all prompts belong to the default, which may spend anything.",
    )


@command.command("spend")
def spend(
    name: Annotated[str | None, typer.Argument(help="One tenant; all of them if left out.")] = None,
    *,
    day: Annotated[str | None, typer.Option(help="A UTC day, 2030-01-31; today if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is granted to routers, reserved, settled and left, for a UTC day and its month.

    Granted: lent to routers and not reserved yet. Reserved: for prompts in flight. Settled: the costs that
    replies told. Untold: what was reserved for answers whose cost nobody told, taken for spent. Degraded: of
    what is settled, that of prompts which the budget did not cover (--at-limit degrade).
    """
    on = _read_day(day)
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        declared = Tenants(session).list()
        seen = {*declared, *Ledger(session).tenants_seen(), DEFAULT_TENANT}
        if name is not None and name not in seen:
            Tenants(session).get(name)  # tells which there are
        found = [_spend_of(session, declared.get(one) or Tenant(name=one), on) for one in sorted(seen)]
    wanted = [one for one in found if name in {None, one["tenant"]}]
    if as_json:
        print_json(wanted if name is None else wanted[0])
    else:
        _print_spend(wanted)


def _spend_of(session: Session, tenant: Tenant, day: date) -> dict[str, Any]:
    of_day, of_month = Grants(session).balances(
        tenant.name, day=day, budgets=(tenant.usd_per_day, tenant.usd_per_month)
    )
    ledger = Ledger(session)
    return {
        "tenant": tenant.name,
        "day": {"utc": day.isoformat(), **_balance(of_day)},
        "month": {"utc": f"{day:%Y-%m}", **_balance(of_month)},
        "llms": [
            {
                "llm": one.llm,
                "replies": one.replies,
                "failures": one.failures,
                "untold": one.untold,
                "input_tokens": one.input_tokens,
                "output_tokens": one.output_tokens,
                "settled_usd": float(one.settled),
                "degraded": one.degraded,
                "degraded_usd": float(one.degraded_usd),
            }
            for one in ledger.spend(tenant.name, since=day.replace(day=1), until=_last_day(day))
        ],
    }


def _balance(found: Balance) -> dict[str, float | None]:
    values: dict[str, Decimal | None] = {
        "budget_usd": found.budget,
        "granted_usd": found.granted,
        "reserved_usd": found.reserved,
        "settled_usd": found.settled,
        "untold_usd": found.untold,
        "degraded_usd": found.degraded,
        "remaining_usd": found.remaining,
    }
    return {name: None if value is None else float(value) for name, value in values.items()}


def _print_spend(found: list[dict[str, Any]]) -> None:
    columns = ("budget_usd", "granted_usd", "reserved_usd", "settled_usd", "untold_usd", "remaining_usd")
    print_table(
        ("tenant", "UTC", *(name.removesuffix("_usd") for name in columns)),
        [
            (one["tenant"], one[period]["utc"], *(_show(one[period][name]) for name in columns))
            for one in found
            for period in ("day", "month")
        ],
        empty="Nothing was spent.",
    )
    for one in found:
        for period in ("day", "month"):
            if usd := one[period]["degraded_usd"]:
                typer.echo(
                    f"{one['tenant']}, {one[period]['utc']}: {usd:.6g} of the settled USD are of prompts "
                    "that the budget did not cover (degraded)."
                )


def _changes(**options: str | float | None) -> dict[str, Any]:
    """Give the fields that options were given for; the word ``none`` gives ``None``."""
    return {
        field: None if value == _NONE else _READERS[field](field, value)
        for field, value in options.items()
        if value is not None
    }


def _read_usd(field: str, value: Any) -> float:  # noqa: ANN401  # what was typed
    try:
        return float(value)
    except ValueError as error:
        option = "--" + field.replace("_", "-")
        raise UsageError(f"{option} is {value!r}: give a number of USD, or none") from error


def _read_share(_field: str, value: Any) -> float:  # noqa: ANN401  # what was typed
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(f"--exploration is {value!r}: give a share in 0..1, or none") from error


def _read_names(_field: str, value: Any) -> frozenset[str]:  # noqa: ANN401  # as above
    return frozenset(name for part in value.split(",") if (name := part.strip()))


def _keep(_field: str, value: Any) -> Any:  # noqa: ANN401  # as above
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "usd_per_day": _read_usd,
    "usd_per_month": _read_usd,
    "policies": _read_names,
    "llms": _read_names,
    "default_policy": _keep,
    "priority": _keep,
    "at_limit": _keep,
    "exploration_share": _read_share,
}


def _read_day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--day is {text!r}: give a day of UTC, 2030-01-31") from error


def _last_day(day: date) -> date:
    """Give the last day of the month."""
    return day.replace(day=monthrange(day.year, day.month)[1])


def _check_names(session: Session, tenant: Tenant) -> None:
    """Refuse policies and LLMs that nobody declared: a slip of the pen would lock the tenant out."""
    policies = {*(tenant.policies or ()), *filter(None, [tenant.default_policy])}
    for kind, asked, known in (
        ("policy", policies, set(Policies(session).current())),
        ("LLM", tenant.llms or set(), set(LLMs(session).names())),
    ):
        if unknown := sorted(asked - known):
            listed = ", ".join(sorted(known)) or "none"
            raise UsageError(f"no {kind} is named {unknown[0]!r}; known: {listed}")


def _tell(tenant: Tenant, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_describe(tenant))
    else:
        typer.echo(f"{tenant.name} {what}.")


def _describe(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "usd_per_day": tenant.usd_per_day,
        "usd_per_month": tenant.usd_per_month,
        "policies": None if tenant.policies is None else sorted(tenant.policies),
        "llms": None if tenant.llms is None else sorted(tenant.llms),
        "default_policy": tenant.default_policy,
        "priority": tenant.priority,
        "at_limit": tenant.at_limit,
        "exploration_share": tenant.exploration_share,
    }


def _show(usd: float | None) -> str:
    return "-" if usd is None else f"{usd:.6g}"


def _show_names(names: frozenset[str] | None) -> str:
    return "any" if names is None else ", ".join(sorted(names)) or "none of them"
