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


class LakeEngine(StrEnum):
    """What decides the rows of a data lake."""

    LOCAL = "local"
    RAY = "ray"


@command.command("assign")
def assign(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of prompts.parquet, outcomes.parquet, models.csv; with --engine, of any Parquet."
        ),
    ],
    *,
    budget_usd: Annotated[
        float | None, typer.Option(help="Expected USD that the whole set may cost.")
    ] = None,
    engine: Annotated[
        LakeEngine | None,
        typer.Option(help="Decide rows of a data lake by a policy in force: local, or ray (experimental)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="With --engine: the folder for the result, Parquet too.")
    ] = None,
    policy: Annotated[str, typer.Option(help="With --engine: a policy in force.")] = "default",
    column: Annotated[
        list[str] | None, typer.Option(help="With --engine: prompt=COLUMN, custom_id=COLUMN.")
    ] = None,
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

    With --engine each row of the folder's Parquet files is decided by itself, by a policy of the installation
    and what is published in it, and nothing is called: the result has its LLM, predicted error and USD.
    """
    if engine is not None:
        _assign_lake(data, output, engine, policy=policy, column=column or [])
        return
    if budget_usd is None:
        from workers.errors import UsageError

        raise UsageError("give --budget-usd, or --engine for a data lake")
    _assign_recorded(
        data, budget_usd, split, capacity=capacity, labels=labels, seed=seed, embedder=embedder, report=report
    )


def _assign_recorded(
    data: Path,
    budget_usd: float,
    split: Split,
    *,
    capacity: Path | None,
    labels: int,
    seed: int,
    embedder: str,
    report: Path | None,
) -> None:
    """Assign the prompts of a folder of outcomes, and print what that comes to beside the greedy."""
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


def _assign_lake(
    data: Path, output: Path | None, engine: LakeEngine, *, policy: str, column: list[str]
) -> None:
    """Assign a folder of Parquet files by what is published, and print the rows of each LLM."""
    from functools import partial

    from workers.batches.lake import Rule, assign_lake
    from workers.batches.tables import Columns
    from workers.batches.trial import read_view
    from workers.cli.console import open_engine, print_table, read_settings
    from workers.embedding.loading import open_for
    from workers.errors import UsageError

    if output is None:
        raise UsageError("--engine needs --output, a folder for the result")
    settings = read_settings()
    with open_engine(settings) as database:
        view = read_view(database, settings)
    if policy not in view.policies:
        listed = ", ".join(sorted(view.policies))
        raise UsageError(f"no policy is named {policy!r}; in force: {listed}")
    rule = Rule(
        snapshot=view.snapshot,
        policy=view.policies[policy].declaration.policy,
        embedder=partial(
            open_for,
            view.snapshot.cluster_map.fingerprint,
            backend=settings.embedder_backend,
            threads=settings.embedder_threads,
            folder=settings.embedders_folder,
        ),
        columns=Columns.read(column),
    )
    counts = assign_lake(data, output, rule, engine=engine.value)
    rows = [(name or "(none)", str(count)) for name, count in sorted(counts.items())]
    print_table(("LLM", "rows"), rows, empty="No rows.")


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
