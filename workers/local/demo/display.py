"""What a person sees of a run: a live line while it works, then the tables."""

import time
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from workers.local.demo.report import Report
from workers.local.demo.traffic import Tally

_SHOW_EVERY_S = 0.25


class Display:
    """The live line while prompts are under way."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("answered"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
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

    def update(self, tally: Tally) -> None:
        """Show where the run stands, a few times a second."""
        now = time.monotonic()
        if now - self._shown_at < _SHOW_EVERY_S and tally.answered < tally.total:
            return
        self._shown_at = now
        quality = tally.score / tally.graded if tally.graded else 0.0
        leaders = ", ".join(f"{llm} {count / tally.answered:.0%}" for llm, count in tally.llms.most_common(3))
        facts = f"quality {quality:.3f}  {tally.cost_usd:.4f} USD  {leaders}"
        self._progress.update(self._task, completed=tally.answered, facts=facts, visible=True)


def show_report(console: Console, report: Report) -> None:
    """Print the tables of a run."""
    llms = Table(title="LLMs, all simulated", title_justify="left", box=None, header_style="bold")
    for column in ("LLM (simulated)", "share", "before join", "after join", "USD", "quality"):
        llms.add_column(column, justify="left" if column.startswith("LLM") else "right")
    for llm in report["llms"]:
        joined = " (joined half-way)" if llm["name"] == report["late_llm"] else ""
        llms.add_row(
            f"{llm['name']}{joined}",
            f"{llm['share']:.1%}",
            f"{llm['share_before_join']:.1%}",
            f"{llm['share_after_join']:.1%}",
            f"{llm['cost_usd']:.4f}",
            "" if llm["quality"] is None else f"{llm['quality']:.3f}",
        )
    run = Table(title="The same prompts, simulated LLMs", title_justify="left", box=None, header_style="bold")
    for column in ("routing", "quality", "USD", "of the best LLM's USD"):
        run.add_column(column, justify="left" if column == "routing" else "right")
    reference = report["best_single"]["cost_usd"]
    for name, key in (
        ("uniroute", "routed"),
        (f"always {report['best_single']['llm']} (the best)", "best_single"),
        (f"always {report['cheapest']['llm']} (the cheapest)", "cheapest"),
        ("random", "random"),
        ("oracle, per prompt", "oracle"),
    ):
        row = report[key]
        run.add_row(
            name,
            "" if row["quality"] is None else f"{row['quality']:.3f}",
            f"{row['cost_usd']:.4f}",
            f"{row['cost_usd'] / reference:.0%}" if reference else "",
        )
    console.print()
    console.print(llms)
    console.print()
    console.print(run)
    latency = report["latency_ms"]
    console.print(
        f"\n{report['replies']} of {report['prompts']} prompts answered in {report['seconds']:.1f} s, "
        f"{report['prompts_per_second']:.0f} a second; lost {report['lost']}, duplicated "
        f"{report['duplicate_replies']}, dead-lettered {report['dead_letters']}"
    )
    console.print(
        f"prompt to dispatch p50 {latency['dispatch_p50']} ms, p99 {latency['dispatch_p99']} ms; "
        f"prompt to reply p50 {latency['reply_p50']} ms, p99 {latency['reply_p99']} ms"
    )
    console.print(
        f"feedback applied {report['feedback_applied']}, error rates published "
        f"{report['error_rate_versions']} times"
    )
    if report.get("joined"):
        console.print(_describe_join(report["joined"]))
    if "replay" in report:
        replay = report["replay"]
        console.print(f"decided again: {replay['identical']} of {replay['decisions']} the same, bit for bit")
        if (doubled := replay["doubled"]) is not None:
            console.print(
                f"at twice its price {doubled['llm']} (simulated), the dearest, would have had "
                f"{doubled['share_after']:.1%} of the prompts instead of {doubled['share_before']:.1%}"
            )
    for note in report["notes"]:
        console.print(f"[dim]{note}[/dim]")


def _describe_join(joined: dict[str, Any]) -> str:
    """Say in a sentence what came of the LLM that joined."""
    what = (
        f"{joined['llm']} (simulated) joined on {joined['labels_used']} labels, probed for "
        f"{joined['labels_usd']:.6f} USD while {joined['prompts_while_probed']} prompts were sent"
    )
    if joined["held_s"]:
        what += f" and the rest waited {joined['held_s']:.1f} s for it"
    what += f"; {joined['held_back'] or 'it is ' + joined['state']}"
    if joined["adopted"]:
        return (
            f"{what}; it had its share of {joined['final_share']:.1%}, within a fifth and for good, "
            f"{joined['adopted_after_added']} routed prompts after it was added, "
            f"{joined['adopted_after_prompts']} after it could be chosen"
        )
    return (
        f"{what} and was not adopted: it had {joined['prompts_taken']} of {joined['prompts_since']} prompts, "
        f"quality lost to that {joined['quality_lost']:.4f}"
    )
