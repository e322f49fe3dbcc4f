"""``uniroute map``: the cluster maps that prompts are placed in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_prompts
from workers.storage.engine import transaction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

command = typer.Typer(no_args_is_help=True, help="Fit and list cluster maps.")


@command.command("fit")
def fit(
    prompts: Annotated[
        Path,
        typer.Argument(
            help='JSON lines of {"prompt": ...}: thousands, no labels. Or a folder of recorded outcomes, '
            "whose LLMs then tell how errors move together."
        ),
    ],
    *,
    embedder: Annotated[
        str, typer.Option(help="Name or folder of an embedder artifact.")
    ] = "all-MiniLM-L6-v2",
    clusters: Annotated[
        str, typer.Option(help="Clusters of each resolution, separated by commas.")
    ] = "5,10,20,40,80",
    temperature: Annotated[
        float | None,
        typer.Option(help="Sharpness, inf is hard; fitted on recorded outcomes where not given, else 16."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
) -> None:
    """Embed the prompts and cluster them; the first map is put in force, a later one by map activate."""
    from workers.embedding.loading import load_embedder
    from workers.onboarding import KnownErrors, fit_map
    from workers.storage.cluster_maps import ClusterMaps

    settings = read_settings()
    texts, scores = _read_training(prompts)
    encoder = load_embedder(
        embedder,
        backend=settings.embedder_backend,
        threads=settings.embedder_threads,
        folder=settings.embedders_folder,
    )
    embeddings = encoder.encode(texts)
    with open_engine(settings) as engine:
        version = fit_map(
            engine,
            encoder,
            embeddings,
            known=None if scores is None else KnownErrors(embeddings=embeddings, errors=1.0 - scores),
            sizes=_read_sizes(clusters),
            temperature=temperature,
            seed=seed,
        )
        with transaction(engine) as session:
            active = ClusterMaps(session).active()
    if active is not None and active.cluster_map.version == version:
        typer.echo(f"Cluster map {version}, fitted on {len(texts)} prompts, is in force.")
    else:
        typer.echo(
            f"Cluster map {version}, fitted on {len(texts)} prompts, is kept beside the one in force; "
            f"to change over: uniroute map activate {version}"
        )


@command.command("activate")
def activate(
    version: Annotated[str, typer.Argument(help="As map list shows it.")],
    *,
    even_blind: Annotated[
        bool, typer.Option("--even-blind", help="Even if nothing is known of the LLMs on it.")
    ] = False,
) -> None:
    """Put another map in force."""
    from workers.onboarding import activate_map

    with open_engine(read_settings()) as engine:
        activate_map(engine, version, even_blind=even_blind)
    typer.echo(f"Cluster map {version} is in force.")


@command.command("list")
def list_maps(*, as_json: AsJson = False) -> None:
    """List the maps, the one in force marked."""
    from workers.storage.cluster_maps import ClusterMaps

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        maps = ClusterMaps(session)
        found = [maps.get(version) for version in maps.list()]
        active = maps.active()
    rows = [
        {
            "version": one.cluster_map.version,
            "in_force": active is not None and one.cluster_map.version == active.cluster_map.version,
            "clusters": list(one.cluster_map.sizes),
            "embedder": one.cluster_map.fingerprint.as_dict(),
        }
        for one in found
        if one is not None
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["version", "in force", "clusters", "embedder"],
        [
            [row["version"], "yes" if row["in_force"] else "", row["clusters"], row["embedder"]["name"]]  # type: ignore[index]
            for row in rows
        ],
        empty="There is no cluster map: fit one with `uniroute map fit`.",
    )


def _read_training(path: Path) -> "tuple[list[str], NDArray[np.float64] | None]":
    """Give the training prompts and, from a folder of outcomes, every LLM's scores on them, shape (n, S)."""
    if not path.is_dir():
        return read_prompts(path), None
    import numpy as np

    from workers.outcomes import read_outcomes

    outcomes = read_outcomes(path)
    rows = np.flatnonzero((outcomes.splits == "train") & ~np.isnan(outcomes.scores).any(axis=1))
    return [outcomes.texts[row] for row in rows], outcomes.scores[rows]


def _read_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise typer.BadParameter(f"{text!r}: give whole numbers separated by commas, such as 5,10,20")
    return sizes
