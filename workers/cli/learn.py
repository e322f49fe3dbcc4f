"""``uniroute learn``: what is promised of learning, measured on recorded outcomes."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress

    from routing.embedders import Fingerprint, FloatMatrix
    from workers.scenarios.findings import ScenarioFindings
    from workers.scenarios.stage import Stage

command = typer.Typer(no_args_is_help=True, help="Measure what is promised of learning.")


class Scenario(StrEnum):
    """What is tried."""

    ONBOARDING = "onboarding"
    POISON = "poison"
    DRIFT = "drift"
    OPE = "ope"
    ALL = "all"


#: Trials of each scenario unless others are asked for.
TRIALS = {Scenario.ONBOARDING: 40, Scenario.POISON: 40, Scenario.DRIFT: 200, Scenario.OPE: 200}


@command.callback()
def root() -> None:
    """Measure what is promised of learning."""


@command.command("simulate")
def simulate(
    data: Annotated[Path, typer.Argument(help="Folder of prompts.parquet, outcomes.parquet, models.csv.")],
    *,
    scenario: Annotated[Scenario, typer.Option(help="What to try.")],
    trials: Annotated[
        int | None, typer.Option(help="Trials; 40 of onboarding and poison, 200 of drift and ope.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    embedder: Annotated[
        str, typer.Option(help="Name or folder of an embedder artifact; exported first if it is missing.")
    ] = "all-MiniLM-L6-v2",
    report: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes that share the trials.", min=1)] = 1,
    as_json: console.AsJson = False,
) -> None:
    """Try the learning loop on recorded outcomes: few labels, lies, an LLM that gets worse, other policies.

    Prints one table per scenario: each measure, its 95 % interval, what was promised of it, and whether it
    holds.
    """
    import json

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from workers.outcomes import read_outcomes
    from workers.scenarios.findings import as_text, render, write_report
    from workers.scenarios.stage import set_stage

    columns = (TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        stage = set_stage(read_outcomes(data), embed=_embed_with(embedder, progress), seed=seed)
        chosen = list(TRIALS) if scenario is Scenario.ALL else [scenario]
        findings = [
            _run(one, stage, trials=trials or TRIALS[one], seed=seed, jobs=jobs, progress=progress)
            for one in chosen
        ]
    if as_json:
        console.print_json(json.loads(as_text(findings)))
    else:
        for one in findings:
            Console(width=max(Console().width, 130)).print(render(one))
    if report is not None:
        write_report(findings, report)


def _run(
    scenario: Scenario, stage: "Stage", *, trials: int, seed: int, jobs: int, progress: "Progress"
) -> "ScenarioFindings":
    from workers.scenarios.drift import simulate_drift
    from workers.scenarios.off_policy import simulate_off_policy
    from workers.scenarios.onboarding import simulate_onboarding
    from workers.scenarios.poison import simulate_poison

    simulations: dict[Scenario, Callable[..., ScenarioFindings]] = {
        Scenario.ONBOARDING: simulate_onboarding,
        Scenario.POISON: simulate_poison,
        Scenario.DRIFT: simulate_drift,
        Scenario.OPE: simulate_off_policy,
    }

    def run(work: Callable[[int], Any], numbers: Sequence[int]) -> Iterable[Any]:
        return progress.track(_share_out(work, numbers, jobs), total=len(numbers), description=scenario.value)

    return simulations[scenario](stage, trials=trials, seed=seed, run=run)


def _share_out(work: Callable[[int], Any], numbers: Sequence[int], jobs: int) -> Iterable[Any]:
    """Run each trial, in ``jobs`` processes if more than one; results in the trials' order."""
    if jobs == 1:
        return map(work, numbers)
    import joblib  # type: ignore[import-untyped]

    results: Iterable[Any] = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(work)(number) for number in numbers
    )
    return results


def _embed_with(
    named: str, progress: "Progress"
) -> "Callable[[Sequence[str]], tuple[FloatMatrix, Fingerprint]]":
    """Give a function that embeds texts with an artifact named by its folder or its name, cached on disk."""
    from workers.embedding.cache import cached_embeddings
    from workers.embedding.export import ensure_artifact
    from workers.embedding.loading import load_embedder

    def embed(texts: Sequence[str]) -> "tuple[FloatMatrix, Fingerprint]":
        settings = console.read_settings()
        folder = Path(named)
        if not folder.is_dir():
            folder = ensure_artifact(named, settings.embedders_folder)
        encoder = load_embedder(folder, backend=settings.embedder_backend, threads=settings.embedder_threads)
        task = progress.add_task("prompts", total=len(texts))
        rows = cached_embeddings(
            encoder, texts, progress=lambda done, _: progress.update(task, completed=done)
        )
        return rows, encoder.fingerprint

    return embed
