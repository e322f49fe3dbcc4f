"""``uniroute assign``: choose LLMs for a whole set of prompts at once, under one budget."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

command = typer.Typer()


class Split(StrEnum):
    """Which prompts are assigned."""

    ALL = "all"
    TEST = "test"


@command.command("assign")
def assign(
    data: Annotated[Path, typer.Argument(help="Folder of prompts.parquet, outcomes.parquet, models.csv.")],
    *,
    budget_usd: Annotated[float, typer.Option(help="Expected USD that the whole set may cost.")],
    capacity: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON, LLM: {requests: N, tokens: N}; LLMs it does not name have no limit."
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="Assign every prompt, or those of the test split.")
    ] = Split.ALL,
    labels: Annotated[int, typer.Option(min=1, help="Val labels that each LLM is known by, at most.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Of the labels.")] = 0,
    embedder: Annotated[
        str, typer.Option(help="Name or folder of an embedder artifact; exported first if it is missing.")
    ] = "all-MiniLM-L6-v2",
    report: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
) -> None:
    """Assign a set of recorded prompts jointly: the most predicted quality within the budget.

    Map and lengths come from the train prompts, error rates from at most 400 labelled val prompts per LLM.
    All prompts are assigned, those of train and val too; for a realised quality on prompts that nothing was
    learned from: --split test. The budget and the capacities bound expected USD and tokens, and are never
    exceeded; where they do not suffice, the error says what is short and by how much.
    """
    import numpy as np
    from rich.console import Console

    from workers.cli.files import write_json
    from workers.cli.recorded import embed_texts, show_progress
    from workers.errors import UsageError
    from workers.outcomes import read_outcomes
    from workers.simulation.assigning import assign_recorded, read_capacities
    from workers.simulation.recorded import learn_from

    if not (np.isfinite(budget_usd) and budget_usd >= 0):
        raise UsageError(f"--budget-usd: must be finite and at least 0, not {budget_usd}")
    with show_progress() as progress:
        recorded = learn_from(read_outcomes(data), embed=lambda texts: embed_texts(embedder, texts, progress))
    found = assign_recorded(
        recorded,
        recorded.test if split is Split.TEST else np.arange(len(recorded.scores)),
        budget_usd=budget_usd,
        capacities=None if capacity is None else read_capacities(capacity, recorded.names),
        labels=labels,
        seed=seed,
    ).as_json()
    Console().print(_render(found))
    if report is not None:
        write_json(found, report)


def _render(found: dict[str, Any]) -> Any:  # noqa: ANN401  # rich, which other commands do without
    from rich.table import Table

    title = (
        f"{found['dataset']}: {found['prompts']} prompts to {found['llms']} LLMs for {found['budget_usd']:g} "
        f"USD; gap to the bound {found['gap']:.2e}, {found['seconds']:.1f} s, "
        f"{found['peak_rss_mib']:.0f} MiB; costs: {found['cost_source']}"
    )
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for column in ("", "expected USD", "realised USD", "predicted quality", "realised quality", "left out"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in (("joint", found), ("greedy", found["greedy"])):
        table.add_row(
            name,
            f"{row['cost_usd']:.4f}",
            f"{row['realised_cost_usd']:.4f}",
            f"{row['predicted_quality']:.4f}",
            f"{row['realised_quality']:.4f}",
            str(row["left_out"]),
        )
    return table
