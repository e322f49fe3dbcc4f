"""``uniroute rates``: error rates by version, what differs between two, and the way back."""

from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from workers.storage.error_rates import RatesVersion

command = typer.Typer(no_args_is_help=True, help="See, compare and roll back published error rates.")

Version = Annotated[int, typer.Argument(help="A number that `rates history` shows.")]


@command.command("show")
def show(
    version: Annotated[int | None, typer.Argument(help="A version; the one in force if not given.")] = None,
    *,
    cells: Annotated[bool, typer.Option("--cells", help="Every cell, not the mean alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the error rates of a version, with their 90 % intervals."""
    from workers.storage.engine import transaction

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = _get(session, version)
        sizes = _sizes(session, found.map_version)
    first = sizes[0]
    rows = []
    for column, llm in enumerate(found.llms):
        rates = found.rates[:, column]
        spread = None if found.deviations is None else found.deviations[:, column]
        groups = range(len(rates)) if cells else [slice(0, first)]
        for group in groups:
            rate = float(rates[group].mean())
            half = None if spread is None else 1.645 * float(spread[group].mean())
            rows.append(
                {
                    "llm": llm,
                    "cell": group if isinstance(group, int) else None,
                    "error": rate,
                    "low": None if half is None else max(0.0, rate - half),
                    "high": None if half is None else min(1.0, rate + half),
                }
            )
    if as_json:
        print_json({"version": found.version, "map": found.map_version, "held": found.held, "rates": rows})
        return
    typer.echo(f"Version {found.version}: {found.reason}{_held(found)}")
    table = [
        [
            row["llm"],
            *([row["cell"]] if cells else []),
            f"{row['error']:.3f}",
            "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}",
        ]
        for row in rows
    ]
    means = ["LLM", "mean error", "mean 90 % interval of a cell"]
    print_table(["LLM", "cell", "error", "90 %"] if cells else means, table, empty="It covers no LLM.")


@command.command("history")
def history(
    *,
    last: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the versions that are kept of the map in force."""
    from workers.storage.cluster_maps import ClusterMaps
    from workers.storage.engine import transaction
    from workers.storage.error_rates import ErrorRates

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        active = ClusterMaps(session).active_version()
        found = [] if active is None else ErrorRates(session).history(active, last=last)
    if as_json:
        print_json(
            [
                {
                    "version": one.version,
                    "created_at": one.created_at,
                    "reason": one.reason,
                    "llms": one.llms,
                    "held": one.held,
                }
                for one in found
            ]
        )
        return
    rows = [
        [one.version, f"{one.created_at:%Y-%m-%d %H:%M:%S}", len(one.llms), one.reason + _held(one)]
        for one in found
    ]
    print_table(["version", "since, UTC", "LLMs", "why"], rows, empty="No error rates are published yet.")


@command.command("diff")
def diff(
    old: Version,
    new: Annotated[int | None, typer.Argument(help="Another; the one in force if not given.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what moved from one version to another, by LLM."""
    import numpy as np

    from workers.storage.engine import transaction

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        before, after = _get(session, old), _get(session, new)
        first = _sizes(session, after.map_version)[0]
    if before.map_version != after.map_version:
        raise UsageError(f"versions {before.version} and {after.version} are of different maps")
    rows = []
    for llm in sorted({*before.llms, *after.llms}):
        one, other = (
            found.rates[:, found.llms.index(llm)] if llm in found.llms else None for found in (before, after)
        )
        moves = None if one is None or other is None else np.abs(one - other)
        rows.append(
            {
                "llm": llm,
                "before": None if one is None else float(one[:first].mean()),
                "after": None if other is None else float(other[:first].mean()),
                "largest_move": None if moves is None else float(moves.max()),
                "cells_moved": None if moves is None else int((moves > 0).sum()),
            }
        )
    if as_json:
        print_json({"old": before.version, "new": after.version, "llms": rows})
        return
    print_table(
        ["LLM", f"error in {before.version}", f"in {after.version}", "largest move", "cells moved"],
        [[row["llm"], *(_number(row[name]) for name in list(row)[1:])] for row in rows],
        empty="Neither covers an LLM.",
    )


@command.command("rollback")
def rollback(version: Version) -> None:
    """Put the rates of an earlier version in force and hold them; learning goes on, unused, meanwhile."""
    from workers.learner import roll_back_rates

    with open_engine(read_settings()) as engine:
        made = roll_back_rates(engine, version)
    typer.echo(
        f"Version {made} has the rates of version {version} and is in force. They are held until "
        "`uniroute rates release`."
    )


@command.command("release")
def release() -> None:
    """Let learned rates come into force again after a rollback."""
    from workers.learner import refit

    with open_engine(read_settings()) as engine:
        made = refit(engine, reason="released", wait=True, release=True)
    typer.echo("Nothing was held." if made is None else f"Version {made} is in force.")


@command.command("forgetting")
def forgetting(
    *,
    half_life: Annotated[
        float | None,
        typer.Option(help="Pieces of feedback on an LLM that halve what older ones weigh; inf forgets none."),
    ] = None,
) -> None:
    """Show how fast older evidence is forgotten, or set it: rates then move towards the map's prior."""
    from workers.learner import refit
    from workers.storage.engine import transaction
    from workers.storage.journal import Journal
    from workers.storage.learning_rules import LearningRules

    with open_engine(read_settings()) as engine:
        with transaction(engine) as session:
            rules = LearningRules(session)
            if half_life is not None:
                rules.declare(half_life)
                Journal(session).write("forgetting declared", "all LLMs", half_life=str(half_life))
            now = rules.half_life()
        if half_life is not None:
            refit(engine, reason=f"half-life {now:g}", wait=True)
    typer.echo(f"{now:g} pieces of feedback on an LLM halve what older ones weigh.")


def _get(session: "Session", version: int | None) -> "RatesVersion":
    from workers.storage.cluster_maps import ClusterMaps
    from workers.storage.error_rates import ErrorRates

    active = ClusterMaps(session).active_version()
    if version is not None:
        found = ErrorRates(session).get(version)
        if found is None:
            raise UsageError(f"no version {version} of error rates is kept: `uniroute rates history`")
        return found
    current = None if active is None else ErrorRates(session).current(active)
    if current is None:
        raise UsageError("no error rates are in force yet")
    return current


def _sizes(session: "Session", map_version: str) -> tuple[int, ...]:
    from workers.storage.cluster_maps import ClusterMaps

    fitted = ClusterMaps(session).get(map_version)
    if fitted is None:  # the foreign key of the rates rules it out
        raise UsageError(f"no cluster map {map_version} is kept")
    return fitted.cluster_map.sizes


def _held(found: "RatesVersion") -> str:
    return "" if found.held is None else f" (held: those of {found.held})"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
