"""``uniroute price``: what LLMs charge, from when on."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from routing.errors import UnknownLLMError
from routing.llms import Price
from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_prices
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.llms import LLMs
from workers.storage.prices import Prices, PriceVersion

command = typer.Typer(no_args_is_help=True, help="Set and list prices.")

_COLUMNS = ["version", "since", "USD/M in", "USD/M cached", "USD/M out", "USD/call"]


@command.command("list")
def list_prices(*, as_json: AsJson = False) -> None:
    """List the prices in force, of LLMs that are not retired."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        prices = Prices(session).current()
        found = {one.llm.name: prices[one.llm.name] for one in LLMs(session).living()}
    if as_json:
        print_json({name: _plain(one) for name, one in found.items()})
        return
    print_table(
        ["LLM", *_COLUMNS],
        [[name, *_row(one)] for name, one in found.items()],
        empty="No LLM is registered: add one with `uniroute llm add`.",
    )


@command.command("history")
def history(name: Annotated[str, typer.Argument(help="The LLM's name.")], *, as_json: AsJson = False) -> None:
    """List every price of an LLM, newest first."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        known = LLMs(session).names()
        found = Prices(session).history(name)[::-1]
    if name not in known:
        raise UnknownLLMError(name, known)
    if as_json:
        print_json([_plain(one) for one in found])
    else:
        print_table(_COLUMNS, [_row(one) for one in found], empty="")


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
) -> None:
    """Put a price in force from now on; what is not given stays. Routers follow within a second."""
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
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        living = {one.llm.name: one.llm.price for one in LLMs(session).living()}
        if name is not None:
            asked = {name: replace(_find(name, living), **changes)}
        versions = {}
        for llm, price in asked.items():
            _find(llm, living)
            versions[llm] = Prices(session).set(llm, price)
    for llm, version in versions.items():
        typer.echo(f"The price of {llm} is version {version}.")


def _find(name: str, living: dict[str, Price]) -> Price:
    if name not in living:
        raise UnknownLLMError(name, tuple(living))
    return living[name]


def _plain(one: PriceVersion) -> dict[str, object]:
    return {
        "version": one.version,
        "valid_from": one.valid_from,
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
        f"{one.valid_from:%F %T}",
        f"{price.input_usd_per_mtok:g}",
        "-" if cached is None else f"{cached:g}",
        f"{price.output_usd_per_mtok:g}",
        f"{price.fixed_usd:g}",
    ]
