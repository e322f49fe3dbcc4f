"""``uniroute map``: the cluster maps that prompts are placed in."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_prompts
from workers.errors import UsageError
from workers.storage.engine import transaction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy import Engine

    from routing.embedders import Embedder, FloatMatrix
    from workers.settings import Settings

command = typer.Typer(no_args_is_help=True, help="Fit, compare and list cluster maps.")


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


@command.command("refit")
def refit(
    *,
    known: Annotated[
        Path | None,
        typer.Option(help="A folder of recorded outcomes, whose LLMs tell how errors move together."),
    ] = None,
    clusters: Annotated[
        str, typer.Option(help="Clusters of each resolution, separated by commas.")
    ] = "5,10,20,40,80",
    temperature: Annotated[float | None, typer.Option(help="Sharpness, inf is hard; see map fit.")] = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a map on the prompts that Kafka still holds, beside the one in force, and carry feedback over.

    Nothing routes by it until `map activate`; `map drop` deletes it again.
    """
    from workers.onboarding import KnownErrors, fit_map
    from workers.remapping import stored_prompts

    settings = read_settings()
    with open_engine(settings) as engine:
        encoder = _embedder_in_force(engine, settings)
        texts = stored_prompts(settings)
        if not texts:
            raise UsageError("Kafka holds no prompt any more: fit a map from a file with `uniroute map fit`")
        embeddings = encoder.encode(list(texts.values()))
        learned = None
        if known is not None:
            recorded, scores = _read_training(known)
            if scores is None:
                raise UsageError(f"{known} is no folder of recorded outcomes")
            learned = KnownErrors(embeddings=encoder.encode(recorded), errors=1.0 - scores)
        version = fit_map(
            engine,
            encoder,
            embeddings,
            known=learned,
            sizes=_read_sizes(clusters),
            temperature=temperature,
            seed=seed,
        )
        _carry(engine, version, dict(zip(texts, embeddings, strict=True)), as_json=as_json)


@command.command("carry")
def carry(
    version: Annotated[str, typer.Argument(help="As map list shows it.")], *, as_json: AsJson = False
) -> None:
    """Carry over to a map the feedback that has come with others since, and compare it anew."""
    from workers.remapping import stored_prompts

    settings = read_settings()
    with open_engine(settings) as engine:
        encoder = _embedder_in_force(engine, settings)
        texts = stored_prompts(settings)
        prompts = dict(zip(texts, encoder.encode(list(texts.values())), strict=True)) if texts else {}
        _carry(engine, version, prompts, as_json=as_json)


@command.command("drop")
def drop(version: Annotated[str, typer.Argument(help="As map list shows it.")]) -> None:
    """Delete a map that never was in force."""
    from workers.remapping import drop_map

    with open_engine(read_settings()) as engine:
        drop_map(engine, version)
    typer.echo(f"Cluster map {version} is deleted.")


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


def _embedder_in_force(engine: "Engine", settings: "Settings") -> "Embedder":
    from workers.embedding.loading import open_configured
    from workers.storage.cluster_maps import ClusterMaps

    with transaction(engine) as session:
        fitted = ClusterMaps(session).require_active()
    return open_configured(settings, fitted.cluster_map.fingerprint)


def _carry(engine: "Engine", version: str, prompts: "dict[str, FloatMatrix]", *, as_json: bool) -> None:
    """Carry feedback over, and say how the map compares and what can be done with it."""
    from workers.remapping import carry_feedback

    found = carry_feedback(engine, version, prompts)
    if as_json:
        print_json({"version": version, "prompts": len(prompts), **asdict(found)})
        return
    typer.echo(
        f"Cluster map {version}: {found.pieces} of {found.kept} pieces of feedback that came with other maps "
        f"are carried over, by embedding anew what Kafka holds of their prompts ({len(prompts)}). The rest, "
        "and labels from files, stay with the maps they were counted on."
    )
    if (one := found.comparison) is not None:
        low, high = one.interval
        typer.echo(
            f"Held-out log loss on {one.pieces} pieces of {one.prompts} prompts: {one.old_loss:.4f} with the "
            f"map in force, {one.new_loss:.4f} with this one, {one.difference:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]: "
            + ("better." if one.better else "worse." if low > 0 else "no difference beyond chance.")
        )
    typer.echo(f"uniroute map activate {version} puts it in force, uniroute map drop {version} deletes it.")


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
