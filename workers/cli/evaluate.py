"""``uniroute evaluate``: compare routing methods on a folder of recorded outcomes."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from routing.embedders import FloatMatrix
from workers.cli.recorded import embed_texts, show_progress
from workers.errors import UsageError

if TYPE_CHECKING:
    from routing.evaluation import Trial, TrialResult
    from workers.evaluation.study import Work

command = typer.Typer()


class Cost(StrEnum):
    """What the rule knows of costs."""

    MEAN = "mean"
    PROMPT = "prompt"


class Curve(StrEnum):
    """Where deferral curves are read."""

    GRID = "grid"
    EXACT = "exact"


@command.command("evaluate")
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder of prompts.parquet, outcomes.parquet, models.csv.")],
    *,
    labels: Annotated[
        str, typer.Option(help="Labelled prompts per unseen LLM; several separated by commas.")
    ] = "400",
    clusters: Annotated[str, typer.Option(help="Clusters of single-map methods, or auto.")] = "20",
    unseen: Annotated[float, typer.Option(help="Share of the LLMs that are unseen.")] = 0.33,
    trials: Annotated[int, typer.Option(help="Draws of unseen LLMs and labels.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
    methods: Annotated[str, typer.Option(help="all, or names separated by commas.")] = "all",
    curve: Annotated[
        Curve, typer.Option(help="Read curves on a fixed grid of lambda, comparable, or at every break.")
    ] = Curve.GRID,
    cost: Annotated[
        Cost,
        typer.Option(
            help="Decide on each LLM's mean cost, as published figures do, or on each prompt's own expected "
            "cost, as the router does; the second also prints what it gains."
        ),
    ] = Cost.MEAN,
    embedder: Annotated[
        str, typer.Option(help="Name or folder of an embedder artifact; exported first if it is missing.")
    ] = "all-MiniLM-L6-v2",
    report: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write deferral curves as PNG and SVG there.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes that share the trials.", min=1)] = 1,
) -> None:
    """Route test prompts among LLMs that are new to each method, and compare quality per cost.

    Prints one table sorted by Area, with 95 % intervals and the difference from raw UniRoute.
    """
    from workers.evaluation.parallel import run_in_processes
    from workers.evaluation.plots import plot_findings
    from workers.evaluation.reports import write_report
    from workers.evaluation.study import Study, read_methods, run_study
    from workers.evaluation.tables import WIDTH, render_findings

    study = Study(
        folder=data,
        labels=_read_labels(labels),
        clusters=_read_clusters(clusters),
        unseen=unseen,
        trials=trials,
        seed=seed,
        curve=curve.value,
        cost=cost.value,
        methods=read_methods(methods),
    )
    with show_progress() as progress:

        def embed(texts: Sequence[str]) -> tuple[FloatMatrix, str]:
            rows, fingerprint = embed_texts(embedder, texts, progress)
            return rows, f"{fingerprint.name} {fingerprint.precision}"

        def run(work: "Work", drawn: "Sequence[Trial]") -> "Iterable[TrialResult]":
            done = map(work, drawn) if jobs == 1 else run_in_processes(work, drawn, jobs=jobs)
            return progress.track(done, total=len(drawn), description="trials")

        findings = run_study(study, embed=embed, run=run)
    Console(width=max(Console().width, WIDTH)).print(render_findings(findings))
    if report is not None:
        write_report(findings, report)
    if plot is not None:
        plot_findings(findings, plot)


def _read_labels(text: str) -> tuple[int, ...]:
    try:
        labels = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--labels: {text!r} is not a number, nor numbers separated by commas") from error
    if min(labels) < 1:
        raise UsageError("--labels: must be at least 1: an unseen LLM's cost comes from its labelled prompts")
    if len(set(labels)) < len(labels):
        raise UsageError(f"--labels: {text!r} names a number twice")
    return labels


def _read_clusters(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--clusters: {text!r} is neither auto nor a number of at least 1")
    return int(text)
