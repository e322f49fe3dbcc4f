"""``uniroute policy simulate``: try policies on recorded outcomes before any prompt is paid for."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML: NAME: {kind: ..., ...} for each policy. Beside what `policy apply` takes: "
            "quality-floor {d: 0.02}, equivalent-to {delta: 0.02} (reference: the best single LLM), "
            "budget {usd: 2.5}, {usd_per_hour: ...}, {usd_per_day: ...} or {share_of_best: 0.3}, "
            "threshold {weak: A, strong: B, strong_share: 0.3}, and presets without a reference cost."
        ),
    ],
    *,
    outcomes: Annotated[Path, typer.Option(help="Folder of prompts.parquet, outcomes.parquet, models.csv.")],
    prompts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Test prompts to send; all of them if not given, again beyond their number."
        ),
    ] = None,
    labels: Annotated[int, typer.Option(min=1, help="Val labels that each LLM is known by, at most.")] = 400,
    trials: Annotated[
        int, typer.Option(min=0, help="Simulate so often more, val and test prompts dealt anew.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of labels and traffic.")] = 0,
    embedder: Annotated[
        str, typer.Option(help="Name or folder of an embedder artifact; exported first if it is missing.")
    ] = "all-MiniLM-L6-v2",
    report: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
) -> None:
    """Run the policies of FILE over recorded outcomes: cost, quality, limits kept, target met.

    Map and lengths come from the train prompts, error rates from at most 400 labelled val prompts, traffic
    from test. What a policy promises of the whole traffic (quality-floor, equivalent-to) is calibrated on
    train and the other val prompts; `over: prompt` runs it as it runs live, prompt by prompt. A budget is for
    the traffic as a whole and its own ceiling. The report's `live` is what to put into a file for
    `policy apply`.
    """
    from rich.console import Console

    from workers.cli.files import write_json
    from workers.cli.recorded import embed_texts, show_progress
    from workers.outcomes import read_outcomes
    from workers.policies import load_policy_bodies
    from workers.simulation import policies as simulation
    from workers.simulation.recorded import learn_from
    from workers.simulation.reports import WIDTH, make_report, render
    from workers.simulation.trials import run_trials

    bodies = load_policy_bodies(file)
    with show_progress() as progress:
        recorded = learn_from(
            read_outcomes(outcomes), embed=lambda texts: embed_texts(embedder, texts, progress)
        )
        found = simulation.simulate(
            recorded, bodies, prompts=prompts, labels=labels, seed=seed, source=str(file)
        )
        dealt = None
        if trials:
            dealt = run_trials(
                recorded,
                bodies,
                trials=trials,
                prompts=prompts,
                labels=labels,
                seed=seed,
                source=str(file),
                track=lambda numbers: progress.track(numbers, total=trials, description="trials"),
            )
    Console(width=max(Console().width, WIDTH)).print(render(recorded, found, dealt))
    if report is not None:
        write_json(make_report(recorded, found, dealt), report)
