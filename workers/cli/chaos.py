"""``uniroute chaos``: break every part of an installation under traffic, and count how prompts end."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from workers.cli.interrupts import INTERRUPTED, Interrupts
from workers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workers.local.chaos.options import Options
    from workers.storage.batches import Batch

command = typer.Typer()


@command.command("chaos")
def chaos(
    *,
    prompts: Annotated[int, typer.Option(min=100, help="Prompts to send.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Of the tasks and of the simulated answers.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at any time.")] = 96,
    faults: Annotated[
        Path | None,
        typer.Option(help="A fault scenario for the simulated LLMs; every kind, rarely, where not given."),
    ] = None,
    away: Annotated[float, typer.Option(min=1.0, help="Seconds for which Postgres is away.")] = 30.0,
    session: Annotated[
        float, typer.Option(min=1.0, help="Seconds of silence after which a worker loses its partitions.")
    ] = 6.0,
    batch: Annotated[
        bool, typer.Option("--batch", help="Submit the prompts as one offline batch, and kill every role.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Kill and freeze workers, kill the broker, take Postgres away, fail LLMs: no prompt may be lost."""
    try:
        from workers.local.chaos.display import Display, show_report  # only with the extra
        from workers.local.chaos.options import Options
        from workers.local.chaos.run import run_chaos
    except ImportError as error:
        raise UsageError(
            f"the endurance run needs {error.name}: pip install 'uniroute[local,export,openvino]'"
        ) from error
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise UsageError(f"{report} cannot be written: name a file in a folder that exists")
    console = Console()
    interrupts = Interrupts()
    options = Options(prompts=prompts, seed=seed, concurrency=concurrency, away_s=away, session_s=session)
    if faults is not None:
        options = replace(options, faults=faults)
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:5.1f} s[/dim]  ", end="")
        console.print(what, markup=False)

    if batch:
        _run_batch(console, options, say, interrupts, report)
        return
    try:
        with Display(console, prompts) as display:
            figures = run_chaos(options, say=say, show=interrupts.heeding(display.update))
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started has ended.")
        raise typer.Exit(INTERRUPTED) from None
    show_report(console, figures)
    if report is not None:
        report.write_text(json.dumps(figures, indent=2) + "\n")
    _judge(console, figures)


def _run_batch(
    console: Console,
    options: "Options",
    say: "Callable[[str], None]",
    interrupts: Interrupts,
    report: Path | None,
) -> None:
    """Break things under a batch; exit code 1 where a promise is broken."""
    from workers.local.chaos.batch import run_batch_chaos

    def show(found: "Batch") -> None:
        status.update(f"{found.status}: {found.completed + found.failed} of {found.total} ended")

    try:
        with console.status("") as status:
            figures = run_batch_chaos(options, say=say, show=interrupts.heeding(show))
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started has ended.")
        raise typer.Exit(INTERRUPTED) from None
    console.print({name: value for name, value in figures.items() if name != "events"})
    if report is not None:
        report.write_text(json.dumps(figures, indent=2) + "\n")
    _judge(console, figures)


def _judge(console: Console, figures: "Mapping[str, object]") -> None:
    """Exit with code 1 where a promise is broken, and say which."""
    from workers.local.chaos.accounts import find_broken

    broken = find_broken(figures)
    if broken:
        console.print(f"[red]Broken: {'; '.join(broken)}.[/red]")
        raise typer.Exit(1)
