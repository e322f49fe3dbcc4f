"""``uniroute batch``: run a file of requests under one budget and one deadline, and follow it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.batch_input import keep_input, plan_input, print_plan
from workers.cli.console import FAILED, AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.rehearsal import rehearse

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import Engine

    from workers.batches.requests import Options
    from workers.batches.tables import Columns
    from workers.storage.batches import Batch

command = typer.Typer(no_args_is_help=True, help="Run files of requests, route each line, keep to a budget.")

_POLL_S = 0.5

command.command("rehearse")(rehearse)

BatchId = Annotated[str, typer.Argument(help="As submit printed it.")]


@command.command("submit")
def submit(
    file: Annotated[
        str,
        typer.Argument(
            help="OpenAI Batch JSONL, Parquet or CSV, by how the name ends; a path, or a URL for fsspec."
        ),
    ],
    *,
    budget_usd: Annotated[float | None, typer.Option(help="The most all lines together may cost.")] = None,
    deadline: Annotated[str, typer.Option(help="Time from now: 90s, 30m, 6h, 2d.")] = "24h",
    policy: Annotated[
        str | None, typer.Option(help="A policy in force, instead of the plan's lambda.")
    ] = None,
    min_quality: Annotated[
        float | None, typer.Option(help="The least mean of 1 - predicted error, met at the least cost.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="A folder, or a URL, to copy the results to.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a table: ROLE=COLUMN, several times; roles: prompt, messages, system, custom_id, model, "
            "max_tokens."
        ),
    ] = None,
    order: Annotated[str, typer.Option(help="Of the output file: completion or input.")] = "completion",
    tenant: Annotated[str, typer.Option(help="Who pays.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until it has ended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; call nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hand in a file; a batcher (`uniroute serve batcher`) takes it up."""
    from workers.batches.places import is_url
    from workers.batches.requests import Options, read_duration
    from workers.batches.tables import Columns

    options = Options(
        budget_usd=budget_usd,
        policy=policy,
        min_quality=min_quality,
        order=order,
        output=None if output is None else output if is_url(output) else str(Path(output).resolve()),
    )
    window, columns = read_duration(deadline), Columns.read(column or [])
    if dry_run:
        with open_engine(read_settings()) as engine:
            planned = plan_input(engine, file, columns, options, tenant=tenant, window=window)
        print_plan(planned, as_json=as_json)
    else:
        _hand_in(file, columns, options, tenant=tenant, window=window, wait=wait, as_json=as_json)


def _hand_in(
    file: str,
    columns: "Columns",
    options: "Options",
    *,
    tenant: str,
    window: "timedelta",
    wait: bool,
    as_json: bool,
) -> None:
    """Keep the file and make a batch of it; print its id, or show it until it has ended."""
    from workers.batches.folders import Store
    from workers.batches.places import check_target
    from workers.batches.submission import submit as make_batch

    settings = read_settings()
    if options.output is not None:
        check_target(options.output)
    with open_engine(settings) as engine:
        kept = keep_input(engine, Store(settings.batches_folder), file, columns, tenant=tenant)
        submitted = make_batch(kept, options, engine=engine, window=window, tenant=tenant)
        if submitted.twins:
            typer.echo(f"The same content was submitted before, as {submitted.twins[0]}.", err=True)
        if wait:
            _follow(engine, submitted.batch.id)
            return
    if as_json:
        print_json({"id": submitted.batch.id, "twins": submitted.twins})
    else:
        typer.echo(submitted.batch.id)


@command.command("list")
def show_list(*, as_json: AsJson = False) -> None:
    """List the newest batches."""
    from workers.storage.batches import Batches
    from workers.storage.engine import transaction

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = Batches(session).list()
    if as_json:
        print_json([_describe(batch) for batch in found])
        return
    rows = [
        (
            batch.id,
            _status(batch),
            f"{batch.completed}/{batch.failed}/{batch.total}",
            f"{batch.spent_usd:.4f}",
            "" if batch.budget_usd is None else f"{batch.budget_usd:.4f}",
            f"{batch.created_at:%Y-%m-%d %H:%M}",
        )
        for batch in found
    ]
    print_table(("id", "status", "done/failed/all", "USD", "budget", "submitted"), rows, empty="No batches.")


@command.command("show")
def show(batch_id: BatchId, *, as_json: AsJson = False) -> None:
    """Show where a batch stands, its plan and its journal."""
    from workers.storage.batches import Batches
    from workers.storage.engine import transaction

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        batches = Batches(session)
        batch, journal = batches.get(batch_id), batches.journal(batch_id)
    if as_json:
        entries = [{"at": one.at, "event": one.event, **one.facts} for one in journal]
        print_json({**_describe(batch), "journal": entries})
        return
    typer.echo(_sentence(batch))
    typer.echo(f"repeated calls {batch.repeated_calls}, second replies dropped {batch.duplicated}")
    for one in journal:
        facts = ", ".join(f"{name} {_brief(value)}" for name, value in one.facts.items() if name != "llms")
        typer.echo(f"  {one.at:%H:%M:%S}  {one.event}  {facts}")


@command.command("watch")
def watch(batch_id: BatchId) -> None:
    """Show progress until the batch has ended; Ctrl-C leaves it running."""
    with open_engine(read_settings()) as engine:
        _follow(engine, batch_id)


@command.command("pause")
def pause(batch_id: BatchId) -> None:
    """Dispatch nothing more until it is resumed; what is under way is answered."""
    _set_paused(batch_id, paused=True)


@command.command("resume")
def resume(batch_id: BatchId) -> None:
    """Go on."""
    _set_paused(batch_id, paused=False)


@command.command("cancel")
def cancel(batch_id: BatchId) -> None:
    """End it; what is finished is kept. Twice is the same as once."""
    from workers.batches.submission import cancel as ask

    with open_engine(read_settings()) as engine:
        typer.echo(f"{batch_id} is {ask(engine, batch_id).status}")


@command.command("fetch")
def fetch(
    batch_id: BatchId, *, output: Annotated[str, typer.Option(help="The folder, or URL, to copy to.")] = "."
) -> None:
    """Copy the output and the error file of a batch that has ended."""
    from workers.batches.folders import Store
    from workers.batches.places import copy_to
    from workers.batches.submission import results
    from workers.storage.batches import Batches
    from workers.storage.engine import transaction

    settings = read_settings()
    with open_engine(settings) as engine, transaction(engine) as session:
        batch = Batches(session).get(batch_id)
    for kind, path in results(Store(settings.batches_folder), batch).items():
        name = f"{batch_id}.{kind}.jsonl"
        copy_to(path, output, name)
        typer.echo(f"{output.rstrip('/')}/{name}")


@command.command("serve")
def serve(
    *,
    bind: Annotated[str, typer.Option(help="Another address than loopback needs tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the HTTP server.")] = 8321,
) -> None:
    """Serve OpenAI's Files and Batches: a client needs another base_url, and nothing else.

    Tokens are in UNIROUTE_BATCH_TOKENS, as JSON: {"TENANT": "TOKEN"}.
    """
    import asyncio
    import contextlib

    from workers.batch_server import BatchServer, read_tokens

    settings = read_settings()

    async def run() -> None:
        with open_engine(settings) as engine:
            server = BatchServer(engine=engine, settings=settings, tokens=read_tokens(settings))
            typer.echo(f"{await server.start(bind=bind, port=port)}/v1")
            try:
                await asyncio.Event().wait()
            finally:
                await server.stop()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


@command.command("retry-failed")
def retry_failed(
    batch_id: BatchId,
    *,
    budget_usd: Annotated[float | None, typer.Option(help="Instead of what is left of the old one.")] = None,
) -> None:
    """Make a new batch of the failed lines that a second try may answer."""
    from workers.batches.folders import Store
    from workers.batches.submission import retry_failed as retry

    settings = read_settings()
    with open_engine(settings) as engine:
        submitted = retry(
            engine,
            Store(settings.batches_folder),
            batch_id,
            budget_usd=budget_usd,
            most_bytes=2 * settings.max_prompt_bytes,
        )
    typer.echo(submitted.batch.id)


def _set_paused(batch_id: str, *, paused: bool) -> None:
    from workers.batches.submission import pause as ask

    with open_engine(read_settings()) as engine:
        ask(engine, batch_id, paused=paused)
    typer.echo(f"{batch_id} is {'paused' if paused else 'running'}")


def _follow(engine: "Engine", batch_id: str) -> None:
    """Show the batch until it has ended."""
    import time

    from rich.console import Console
    from rich.live import Live

    from workers.storage.batches import Batches
    from workers.storage.engine import transaction

    console = Console()
    seen: tuple[float, int] | None = None
    try:
        with Live(console=console, transient=True, refresh_per_second=4) as live:
            while True:
                with transaction(engine) as session:
                    batch = Batches(session).get(batch_id)
                done, now = batch.completed + batch.failed, time.monotonic()
                seen = seen or (now, done)
                rate = (done - seen[1]) / (now - seen[0]) if now > seen[0] else 0.0
                left = f", {(batch.total - done) / rate:.0f} s left" if rate > 0 and not batch.ended else ""
                live.update(f"{_sentence(batch)}, {rate:.0f} lines/s{left}{_top(batch)}")
                if batch.ended:
                    break
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        console.print(f"The batch goes on: uniroute batch watch {batch_id}")
        raise typer.Exit(130) from None
    with transaction(engine) as session:
        lost = [one for one in Batches(session).journal(batch_id) if one.event == "not_copied"]
    console.print(_sentence(batch))
    for one in lost[-1:]:
        console.print(
            f"Not copied to {one.facts['to']}: {one.facts['problem']}. uniroute batch fetch copies."
        )
    if batch.status == "failed":
        console.print(batch.problem or "")
    if lost or batch.status == "failed":
        raise typer.Exit(FAILED)


def _describe(batch: "Batch") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(batch), "budget_usd": batch.budget_usd}


def _status(batch: "Batch") -> str:
    return f"{batch.status}, paused" if batch.paused and not batch.ended else batch.status


def _sentence(batch: "Batch") -> str:
    budget = "" if batch.budget_usd is None else f" of {batch.budget_usd:.4f}"
    untold = f", about {batch.unsettled_usd:.4f} more untold" if batch.unsettled_usd else ""
    return (
        f"{batch.id} {_status(batch)}: {batch.completed} done, {batch.failed} failed of {batch.total}, "
        f"{batch.spent_usd:.4f}{budget} USD{untold}"
    )


def _top(batch: "Batch") -> str:
    shares = sorted(batch.llms.items(), key=lambda pair: -pair[1]["lines"])[:3]
    return "".join(
        f"\n  {name}: {share['lines']:.0f} lines, {share['usd']:.4f} USD" for name, share in shares
    )


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:60]
