"""``uniroute policy simulate``: try policies on recorded outcomes before any prompt is paid for."""

import json
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
    live: Annotated[
        Path | None, typer.Option(help="Write the file for `policy apply` that chooses as these did.")
    ] = None,
) -> None:
    """Run the policies of FILE over recorded outcomes: cost, quality, limits kept, target met.

    Map and lengths come from the train prompts, error rates from at most 400 labelled val prompts, traffic
    from test. What a policy promises of the whole traffic (quality-floor and equivalent-to, unless they say
    `over: prompt`) is calibrated on train and the other val prompts. --live writes what came of it, with
    numbers in place of promises: applied, an installation that knows the same chooses the same. A budget is
    for the traffic as a whole, which comes evenly within an hour; it is paced, and its ceiling held, by what
    does so in a router, with calls that take five seconds.
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
    bodies_live = {
        name: one.prepared.live for name, one in found.policies.items() if one.prepared.live is not None
    }
    for name in sorted(name for name, body in bodies_live.items() if body != bodies[name]):
        typer.echo(f"{name} runs live as {json.dumps(bodies_live[name])}")
    for name in sorted(bodies.keys() - bodies_live.keys()):
        typer.echo(f"{name} has no live form: it is a share of what only recorded outcomes tell")
    if live is not None:
        write_json(bodies_live, live, option="--live")
        typer.echo(f"To run them live: uniroute policy apply {live}")
    if report is not None:
        write_json(make_report(recorded, found, dealt), report)
