"""What a person sees of an endurance run: a live line of what is broken, then the figures."""

import time
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from workers.local.chaos.run import Scene

_SHOW_EVERY_S = 0.25


class Display:
    """The live line while prompts are under way."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("ended"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
        )
        self._task = self._progress.add_task("", total=total, facts="", visible=False)
        self._live = Live(self._progress, console=console, transient=True, refresh_per_second=4)
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, scene: Scene) -> None:
        """Show where the run stands, a few times a second."""
        now = time.monotonic()
        if now - self._shown_at < _SHOW_EVERY_S:
            return
        self._shown_at = now
        facts = f"{scene.sent - scene.ended} under way"
        if scene.broken:
            facts += f"  [red]{scene.broken}[/red] since {now - scene.broken_at:.1f} s"
        self._progress.update(self._task, completed=scene.ended, facts=facts, visible=True)


def show_report(console: Console, report: dict[str, Any]) -> None:
    """Print the events and the accounts of a run."""
    events = Table(title="What was broken", title_justify="left", box=None, header_style="bold")
    events.add_column("at", justify="right")
    events.add_column("event")
    events.add_column("whole again after", justify="right")
    for event in report["events"]:
        recovered = event["recovered_in_s"]
        events.add_row(
            f"{event['at_s']:.1f} s", event["what"], "never" if recovered is None else f"{recovered:.1f} s"
        )
    console.print()
    console.print(events)
    console.print(
        f"\n{report['prompts']} prompts in {report['seconds']:.0f} s: {report['replies']} replies, "
        f"{report['dead_letters']} dead letters; lost {report['lost']}, ended twice "
        f"{report['duplicate_replies']}"
    )
    console.print(
        f"calls made again {report['repeated_calls']}, of which the simulated LLMs saw "
        f"{report['repeated_calls_seen_by_llms']}; crashes that the run did not cause "
        f"{report['crashes_not_caused']}"
    )
    console.print(
        "[dim]Whole again: every worker serves, and 95 % of the prompts that were under way when it broke "
        "have ended. All LLMs are simulated.[/dim]"
    )
