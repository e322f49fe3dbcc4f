"""``uniroute batch rehearse``: what a budget would buy for recorded prompts, in seconds."""

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.console import print_table, read_settings


def rehearse(
    data: Annotated[Path, typer.Argument(help="Folder of prompts.parquet, outcomes.parquet, models.csv.")],
    *,
    budget_share: Annotated[
        list[float] | None,
        typer.Option(min=0.001, help="Of the best single LLM's cost; several times for several budgets."),
    ] = None,
    test_split: Annotated[
        bool, typer.Option("--test-split", help="The prompts of the test split alone, not all of them.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the labels, and of the order of the lines.")] = 0,
    embedder: Annotated[
        str, typer.Option(help="Name or folder of an embedder artifact; exported first if it is missing.")
    ] = "all-MiniLM-L6-v2",
    report: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Run recorded prompts as a batch would, without Kafka or a call, and hold it against one lambda."""
    import numpy as np

    from workers.batches.recorded import rehearse_recorded
    from workers.cli.files import write_json
    from workers.cli.recorded import embed_texts, show_progress
    from workers.outcomes import read_outcomes
    from workers.simulation.recorded import learn_from

    outcomes = read_outcomes(data)
    with show_progress() as progress:
        recorded = learn_from(outcomes, embed=lambda texts: embed_texts(embedder, texts, progress))
        texts = [outcomes.texts[row] for row in np.flatnonzero(outcomes.complete)]
        embeddings, _ = embed_texts(embedder, texts, progress)
    found = rehearse_recorded(
        recorded,
        texts,
        embeddings,
        recorded.test if test_split else np.arange(len(texts)),
        shares=budget_share or [0.2, 0.5, 0.8],
        seed=seed,
        settings=read_settings(),
    )
    rows = [
        (
            f"{one['budget_share']:.0%}",
            f"{one['budget_usd']:.4f}",
            f"{one['spent_usd']:.4f}",
            f"{one['quality']:.4f}",
            f"{one['lambda_quality']:.4f}",
            f"{one['lambda_quality_learned']:.4f}",
            "" if one["greedy_quality"] is None else f"{one['greedy_quality']:.4f}",
            str(one["failed"]),
        )
        for one in found["budgets"]
    ]
    header = ("of best", "budget USD", "spent", "quality", "one lambda", "with lengths", "greedy", "failed")
    typer.echo(
        f"{found['lines']} lines; best single LLM {found['best_single']}: "
        f"{found['best_single_quality']:.4f} for {found['best_single_usd']:.4f} USD"
    )
    print_table(header, rows, empty="No budget.")
    if report is not None:
        write_json(found, report)
