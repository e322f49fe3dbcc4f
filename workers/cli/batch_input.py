"""What ``uniroute batch submit`` does with a file: keep it, or plan it and print the plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.console import print_json, print_table, read_settings

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import Engine

    from workers.batches.folders import Store
    from workers.batches.requests import Options
    from workers.batches.tables import Columns
    from workers.storage.batches import BatchFile


def keep_input(
    engine: "Engine", store: "Store", file: str, columns: "Columns", *, tenant: str
) -> "BatchFile":
    """Copy a file into the store; a table as the lines that its rows become."""
    from workers.batches.places import open_place
    from workers.batches.submission import keep_file, keep_rows
    from workers.batches.tables import read_rows, tell_format

    name, kind = file.rstrip("/").rpartition("/")[2], tell_format(file)
    with open_place(file) as source:
        if kind == "jsonl":
            return keep_file(
                source, filename=name, purpose="batch", engine=engine, store=store, tenant=tenant
            )
        rows = read_rows(source, kind, columns)
        return keep_rows(rows, filename=name, engine=engine, store=store, tenant=tenant)


def plan_input(
    engine: "Engine",
    file: str,
    columns: "Columns",
    options: "Options",
    *,
    tenant: str,
    window: "timedelta",
) -> dict[str, Any]:
    """Give the plan of a file as facts; nothing is kept and nothing called."""
    import shutil
    import tempfile

    from workers.batches.places import open_place
    from workers.batches.tables import read_rows, tell_format
    from workers.batches.trial import plan_file, read_view

    settings, kind = read_settings(), tell_format(file)
    with tempfile.TemporaryDirectory(prefix="uniroute-plan-") as folder, open_place(file) as source:
        path = Path(folder) / "requests"
        with path.open("wb") as copy:
            if kind == "jsonl":
                shutil.copyfileobj(source, copy)
            else:
                copy.writelines(read_rows(source, kind, columns))
        view = read_view(engine, settings)
        return plan_file(path, options, view=view, settings=settings, tenant=tenant, window=window)


def print_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """Print a plan for people, or as JSON."""
    if as_json:
        print_json(plan)
        return
    low, high = plan["quality_interval"]
    typer.echo(
        f"{plan['lines']} lines, {plan['input_tokens']:.0f} input tokens, {plan['bad']} bad lines\n"
        f"predicted: {plan['total_usd']:.4f} USD, quality {plan['quality']:.4f} ({low:.4f} to {high:.4f})\n"
        f"binds: {plan.get('binds') or 'nothing'}\n"
        f"takes: {_duration(plan.get('seconds'))}"
    )
    if plan.get("short_usd"):
        typer.echo(f"the budget misses the cheapest service by {plan['short_usd']:.4f} USD")
    rows = [
        (name, f"{share['lines']:.0f}", f"{share['usd']:.4f}")
        for name, share in sorted(plan["llms"].items(), key=lambda pair: -pair[1]["lines"])
    ]
    print_table(("LLM", "lines", "USD"), rows, empty="No line can be served.")


def _duration(seconds: float | None) -> str:
    return "unknown: no call was seen yet" if seconds is None else f"{seconds:.0f} s at least"
