"""``uniroute price``: what LLMs charge, from when on."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from routing.errors import UnknownLLMError
from routing.llms import Price
from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_moment, read_prices
from workers.errors import UsageError
from workers.storage.call_costs import CallBooks, Comparison, Rerating, compare_calls, rerate_calls
from workers.storage.engine import transaction
from workers.storage.llms import LLMs
from workers.storage.prices import Prices, PriceVersion

command = typer.Typer(no_args_is_help=True, help="Set and list prices.")

_COLUMNS = ["version", "since", "USD/M in", "USD/M cached", "USD/M out", "USD/call"]
_DAYS = 30

Since = Annotated[
    str | None,
    typer.Option("--since", help="First UTC day of decisions, 2030-01-31; 30 days ago unless given."),
]


@command.command("list")
def list_prices(*, since: Since = None, as_json: AsJson = False) -> None:
    """List the prices in force, of LLMs that are not retired, with what was predicted and settled by them."""
    first = _read_day(since)
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        prices = Prices(session).current()
        found = {one.llm.name: prices[one.llm.name] for one in LLMs(session).living()}
        paid = compare_calls(CallBooks(session).sums(since=first), list(found))
    if as_json:
        print_json({name: {**_plain(one), **_plain_comparison(paid[name])} for name, one in found.items()})
        return
    print_table(
        ["LLM", *_COLUMNS, "settled USD", "predicted USD", "settled / predicted"],
        [[name, *_row(one), *_comparison_row(paid[name])] for name, one in found.items()],
        empty="No LLM is registered: add one with `uniroute llm add`.",
    )


@command.command("history")
def history(name: Annotated[str, typer.Argument(help="The LLM's name.")], *, as_json: AsJson = False) -> None:
    """List every price of an LLM, the last to come into force first, those set for later too."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        known = LLMs(session).names()
        found = Prices(session).history(name)[::-1]
        current = Prices(session).current().get(name)
    if name not in known:
        raise UnknownLLMError(name, known)
    states = [_state(one, current) for one in found]
    if as_json:
        print_json([{**_plain(one), "state": state} for one, state in zip(found, states, strict=True)])
        return
    rows = [[*_row(one), state] for one, state in zip(found, states, strict=True)]
    print_table([*_COLUMNS, "state"], rows, empty="")


@command.command("set")
def set_(
    name: Annotated[str | None, typer.Argument(help="The LLM's name; not with --file.")] = None,
    *,
    input_price: Annotated[float | None, typer.Option(help="USD per million input tokens.")] = None,
    output_price: Annotated[float | None, typer.Option(help="USD per million output tokens.")] = None,
    cached_input_price: Annotated[
        float | None, typer.Option(help="USD per million input tokens that the LLM has in its cache.")
    ] = None,
    fixed_price: Annotated[float | None, typer.Option(help="USD per call.")] = None,
    file: Annotated[Path | None, typer.Option(help="YAML: LLM: {input_usd_per_mtok: ..., ...}.")] = None,
    valid_from: Annotated[
        str | None, typer.Option(help="When it comes into force, 2030-01-31T12:00:00Z; now unless given.")
    ] = None,
) -> None:
    """Put a price in force, now or from a time on; what is not given stays.

    Routers follow within a second.
    """
    given = {
        "input_usd_per_mtok": input_price,
        "output_usd_per_mtok": output_price,
        "cached_input_usd_per_mtok": cached_input_price,
        "fixed_usd": fixed_price,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    if (file is None) == (name is None) or (file is None) == (not changes):
        raise UsageError("give an LLM with at least one price, or --file alone")
    asked = {} if file is None else read_prices(file)
    moment = read_moment(valid_from)
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        living = {one.llm.name: one.llm.price for one in LLMs(session).living()}
        if name is not None:
            asked = {name: replace(_find(name, living), **changes)}
        versions = {}
        for llm, price in asked.items():
            _find(llm, living)
            versions[llm] = Prices(session).set(llm, price, valid_from=moment)
    for llm, version in versions.items():
        from_then = "" if moment is None else f", in force from {moment.astimezone(UTC):%F %T} UTC on"
        typer.echo(f"The price of {llm} is version {version}{from_then}.")


@command.command("rerate")
def rerate(
    *,
    version: Annotated[
        int | None, typer.Option(help="Charge by the prices that were set last up to this version.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Charge by the prices of a YAML file.")] = None,
    since: Since = None,
    tenant: Annotated[str | None, typer.Option(help="The calls of one tenant alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Charge settled calls again by other prices, those in force unless given, and tell the difference.

    Nothing that was settled changes.
    """
    if version is not None and file is not None:
        raise UsageError("give --version or --file, not both")
    first = _read_day(since)
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        if version is not None and Prices(session).version(version) is None:
            raise UsageError(f"no price has version {version}: `uniroute price history LLM` lists them")
        known = Prices(session).current() if version is None else Prices(session).named(str(version))
        prices = {name: one.price for name, one in known.items()} if file is None else read_prices(file)
        found = rerate_calls(CallBooks(session).sums(since=first, tenant=tenant), prices)
    if as_json:
        print_json(
            {
                "since": first,
                "version": version,
                "llms": {name: _plain_rerating(one) for name, one in found.items()},
                "total": _plain_rerating(_total(found.values())),
            }
        )
        return
    rows = [[name, *_rerating_row(one)] for name, one in found.items()]
    columns = ["LLM", "calls", "settled USD", "at these prices", "difference"]
    print_table(
        columns,
        [*rows, ["together", *_rerating_row(_total(found.values()))]] if rows else [],
        empty=f"Nothing was settled since {first}.",
    )
    if lacking := [name for name, one in found.items() if one.rerated_usd is None]:
        typer.echo(f"Without such a price, and left out of the sum: {', '.join(lacking)}.")


def _read_day(text: str | None) -> date:
    moment = read_moment(text) or datetime.now(UTC) - timedelta(days=_DAYS)
    return moment.astimezone(UTC).date()


def _find(name: str, living: dict[str, Price]) -> Price:
    if name not in living:
        raise UnknownLLMError(name, tuple(living))
    return living[name]


def _plain_comparison(one: Comparison) -> dict[str, float | None]:
    return {
        "settled_usd": one.settled_usd,
        "predicted_usd": one.predicted_usd,
        "predicted_cost_usd": one.predicted_cost_usd,
        "calibration": one.calibration,
    }


def _comparison_row(one: Comparison) -> list[str]:
    ratio = "-" if one.calibration is None else f"{one.calibration:.3f}"
    return [f"{one.settled_usd:.6f}", f"{one.predicted_usd:.6f}", ratio]


def _total(found: Collection[Rerating]) -> Rerating:
    """Sum up those that have a price."""
    priced = [one for one in found if one.rerated_usd is not None]
    return Rerating(
        calls=sum(one.calls for one in priced),
        settled_usd=sum(one.settled_usd for one in priced),
        rerated_usd=sum(one.rerated_usd or 0.0 for one in priced),
    )


def _plain_rerating(one: Rerating) -> dict[str, object]:
    more = None if one.rerated_usd is None else one.rerated_usd - one.settled_usd
    return {
        "calls": one.calls,
        "settled_usd": one.settled_usd,
        "rerated_usd": one.rerated_usd,
        "difference_usd": more,
    }


def _rerating_row(one: Rerating) -> list[str]:
    if one.rerated_usd is None:
        return [str(one.calls), f"{one.settled_usd:.6f}", "-", "-"]
    more = one.rerated_usd - one.settled_usd
    return [str(one.calls), f"{one.settled_usd:.6f}", f"{one.rerated_usd:.6f}", f"{more:+.6f}"]


def _state(one: PriceVersion, current: PriceVersion | None) -> str:
    if current is None or one.valid_from > current.valid_from:
        return "later"
    return "in force" if one.version == current.version else "past"


def _plain(one: PriceVersion) -> dict[str, object]:
    return {
        "version": one.version,
        "valid_from": one.valid_from.astimezone(UTC).isoformat(),
        "input_usd_per_mtok": one.price.input_usd_per_mtok,
        "cached_input_usd_per_mtok": one.price.cached_input_usd_per_mtok,
        "output_usd_per_mtok": one.price.output_usd_per_mtok,
        "fixed_usd": one.price.fixed_usd,
    }


def _row(one: PriceVersion) -> list[str]:
    price = one.price
    cached = price.cached_input_usd_per_mtok
    return [
        str(one.version),
        f"{one.valid_from.astimezone(UTC):%F %T}",
        f"{price.input_usd_per_mtok:g}",
        "-" if cached is None else f"{cached:g}",
        f"{price.output_usd_per_mtok:g}",
        f"{price.fixed_usd:g}",
    ]
