"""``uniroute demo``: the whole path on this machine, shown live, then in a table."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workers.cli.interrupts import INTERRUPTED, Interrupts
from workers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.local.demo.options import Options
    from workers.storage.batches import Batch

command = typer.Typer()


@command.command("demo")
def demo(
    *,
    prompts: Annotated[int, typer.Option(min=10, help="Prompts to send.")] = 2_000,
    outcomes: Annotated[
        Path | None,
        typer.Option(help="Play back a folder of recorded outcomes instead of the built-in tasks."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the tasks and of the simulated answers.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at any time.")] = 32,
    faults: Annotated[
        Path | None, typer.Option(help="A fault scenario for the simulated LLMs, in TOML or JSON.")
    ] = None,
    kill_router: Annotated[
        bool, typer.Option("--kill-router", help="SIGKILL the router mid-run and start it again.")
    ] = False,
    replay_check: Annotated[
        bool, typer.Option("--replay-check", help="Decide everything again from the log and compare.")
    ] = False,
    join: Annotated[
        str, typer.Option(help="What the LLM that joins half-way is: better, or worse.")
    ] = "better",
    batch: Annotated[
        bool, typer.Option("--batch", help="Submit the prompts as one offline batch under a budget instead.")
    ] = False,
    budget_share: Annotated[
        float, typer.Option(min=0.001, help="With --batch: of what the best single LLM would cost.")
    ] = 0.5,
    report: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Route prompts to simulated LLMs over a private, real Kafka and Postgres, and show what it is worth."""
    try:
        from workers.local.demo.display import Display, show_report  # only with the extra
        from workers.local.demo.options import Options
        from workers.local.demo.run import run_demo
    except ImportError as error:
        raise UsageError(
            f"the demonstration needs {error.name}: pip install 'uniroute[local,export,openvino]'"
        ) from error
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise UsageError(f"{report} cannot be written: name a file in a folder that exists")
    if join not in {"better", "worse"}:
        raise UsageError(f"--join is {join!r}: known are better, worse")
    console = Console()
    interrupts = Interrupts()
    options = Options(
        prompts=prompts,
        join=join,  # type: ignore[arg-type]  # one of the two
        outcomes=outcomes,
        seed=seed,
        concurrency=concurrency,
        faults=faults,
        kill_router=kill_router,
        replay_check=replay_check,
    )
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:5.1f} s[/dim]  {what}")

    if batch:
        figures = _run_batch(console, options, budget_share, say, interrupts)
        if report is not None:
            report.write_text(json.dumps({"batch": figures}, indent=2) + "\n")
        return
    try:
        with Display(console, prompts) as display:
            figures = run_demo(options, say=say, show=interrupts.heeding(display.update))
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started has ended.")
        raise typer.Exit(INTERRUPTED) from None
    show_report(console, figures)
    if report is not None:
        report.write_text(json.dumps(figures, indent=2) + "\n")
    if figures["lost"] or figures["duplicate_replies"]:
        console.print("[red]A prompt was lost or answered twice: this must never happen.[/red]")
        raise typer.Exit(1)


def _run_batch(
    console: Console,
    options: "Options",
    budget_share: float,
    say: "Callable[[str], None]",
    interrupts: Interrupts,
) -> dict[str, Any]:
    """Run the batch, show its figures, give them; exit code 1 where a line came out twice or not at all."""
    from workers.local.demo.batch import run_batch_demo

    def show(found: "Batch") -> None:
        status.update(f"{found.status}: {found.completed} of {found.total}, {found.spent_usd:.4f} USD")

    try:
        with console.status("") as status:
            figures = run_batch_demo(
                options, budget_shares=[budget_share], say=say, show=interrupts.heeding(show)
            )[0]
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started has ended.")
        raise typer.Exit(INTERRUPTED) from None
    console.print({name: value for name, value in figures.items() if name != "llms"})
    if figures["duplicated"] or figures["missing"]:
        console.print("[red]A line was lost or answered twice: this must never happen.[/red]")
        raise typer.Exit(1)
    return figures
