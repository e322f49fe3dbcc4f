"""``uniroute embedder``: export a model once, list and verify what was exported, compare back ends."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import msgspec
import numpy as np
import typer

from routing.embedders import Embedder
from workers.cli.console import AsJson, print_json, print_table, read_settings
from workers.cli.files import read_prompts
from workers.embedding.artifacts import Artifact, Precision, find_artifact, list_artifacts, read_artifact
from workers.embedding.distillation import DIMENSION, distill_artifact
from workers.embedding.errors import EmbedderError
from workers.embedding.export import ensure_artifact, export_artifact
from workers.embedding.loading import Backend, load_embedder, verify_artifact
from workers.embedding.sources import DEFAULT_MODEL
from workers.errors import UsageError
from workers.outcomes import read_outcomes

command = typer.Typer(no_args_is_help=True, help="Export, list, verify and compare embedders.")

ArtifactsFolder = Annotated[
    Path | None, typer.Option(help="Where artifacts are kept, in place of UNIROUTE_EMBEDDERS_FOLDER.")
]
#: The first is what the others are measured by.
_BACK_ENDS = "sentence-transformers,onnxruntime,openvino,openvino:bf16,static"


@command.command("export")
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder, ORGANISATION/NAME or ORGANISATION/NAME@REVISION of the hub, or the default."
        ),
    ] = DEFAULT_MODEL,
    *,
    folder: ArtifactsFolder = None,
    static: Annotated[
        bool, typer.Option("--static", help="Distil a static embedder from the model's artifact.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export a model of sentence-transformers as an artifact that runs without torch."""
    where = folder or read_settings().embedders_folder
    path = distill_artifact(ensure_artifact(model, where), where) if static else export_artifact(model, where)
    if as_json:
        print_json(_describe(read_artifact(path)))
    else:
        typer.echo(f"{path} is ready: `uniroute embedder verify {path.name}` checks it.")


@command.command("list")
def list_embedders(*, folder: ArtifactsFolder = None, as_json: AsJson = False) -> None:
    """List the artifacts, the newest of each name last."""
    where = folder or read_settings().embedders_folder
    found = [_describe(artifact) for artifact in list_artifacts(where)]
    if as_json:
        print_json(found)
        return
    print_table(
        ["artifact", "kind", "dimension", "most tokens", "source"],
        [
            [Path(one["folder"]).name, one["kind"], one["dimension"], one["max_length"], one["source"]]
            for one in found
        ],
        empty=f"There is no embedder in {where}: make one with `uniroute embedder export`.",
    )


@command.command("verify")
def verify(
    name: Annotated[
        str, typer.Argument(help="An artifact's name or folder; all of them where not given.")
    ] = "",
    *,
    folder: ArtifactsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Check an artifact's hashes, its dimension, and its vector of a probe text."""
    where = folder or read_settings().embedders_folder
    artifacts = [_find(name, where)] if name else list_artifacts(where)
    if not artifacts:
        raise UsageError(f"there is no embedder in {where}: make one with `uniroute embedder export`")
    found = [verify_artifact(artifact.folder).as_dict() for artifact in artifacts]
    if as_json:
        print_json(found)
        return
    for artifact, fingerprint in zip(artifacts, found, strict=True):
        typer.echo(
            f"{artifact.folder} is whole: {fingerprint['name']}, {fingerprint['dimension']} dimensions."
        )


@command.command("bench")
def bench(
    name: Annotated[
        str, typer.Argument(help="The artifact; exported first if it is missing.")
    ] = DEFAULT_MODEL,
    *,
    outcomes: Annotated[
        Path | None, typer.Option(help="Outcome folder: its prompts are read, and Area is compared.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help='Prompts as JSON lines of {"prompt": ...}.')] = None,
    prompts: Annotated[int, typer.Option(min=32, help="Prompts to time, spread over all.")] = 500,
    back_ends: Annotated[
        str | None,
        typer.Option(help=f"BACKEND[:PRECISION], the first is the reference; {_BACK_ENDS} by default."),
    ] = None,
    trials: Annotated[int, typer.Option(min=2, help="Draws of unseen LLMs for Area.")] = 10,
    folder: ArtifactsFolder = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use.")] = None,
    as_json: AsJson = False,
) -> None:
    """Encode the same prompts with each back end: speed, agreement with the first, cost in Area."""
    from workers.embedding.comparison import compare_embedders

    where = folder or read_settings().embedders_folder
    everything = _read_texts(texts, outcomes)
    drawn = np.linspace(0, len(everything) - 1, min(prompts, len(everything))).astype(int)
    embedders = _open_all(ensure_artifact(name, where), back_ends, where, threads)
    rows = [asdict(one) for one in compare_embedders(embedders, [everything[index] for index in drawn])]
    if outcomes is not None:
        from workers.evaluation.embedders import compare_areas

        areas = compare_areas(embedders, outcomes, trials=trials)
        rows = [{**row, **asdict(area)} for row, area in zip(rows, areas, strict=True)]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [_show(row) for row in rows], empty="")


def _read_texts(texts: Path | None, outcomes: Path | None) -> Sequence[str]:
    if texts is not None and outcomes is None:
        return read_prompts(texts)
    if outcomes is not None and texts is None:
        return read_outcomes(outcomes).texts
    raise UsageError("give the prompts to encode: --outcomes FOLDER or --texts FILE")


def _open_all(
    artifact: Path, back_ends: str | None, folder: Path, threads: int | None
) -> list[tuple[str, Embedder]]:
    """Open the back ends that were asked for; of the default ones, those that this machine can run."""
    opened: list[tuple[str, Embedder]] = []
    for label in (back_ends or _BACK_ENDS).split(","):
        try:
            opened.append((label, _open(label.strip(), artifact, folder, threads)))
        except EmbedderError as error:
            if back_ends is not None:
                raise
            typer.echo(f"left out: {error}", err=True)
    if not opened:
        raise UsageError("no back end can run here: pip install 'uniroute[openvino]'")
    return opened


def _open(label: str, artifact: Path, folder: Path, threads: int | None) -> Embedder:
    backend, _, precision = label.partition(":")
    precision = precision or "f32"
    if backend not in get_args(Backend) or precision not in get_args(Precision):
        known = f"{', '.join(get_args(Backend))}, with :{' or :'.join(get_args(Precision))}"
        raise UsageError(f"--back-ends: there is no {label!r}; there are {known}")
    if backend == "static":
        name = f"{read_artifact(artifact).manifest.name}-static-{DIMENSION}"
        artifact = find_artifact(name, folder).folder
    return load_embedder(
        artifact, backend=cast(Backend, backend), precision=cast(Precision, precision), threads=threads
    )


def _find(name: str, folder: Path) -> Artifact:
    return read_artifact(Path(name)) if Path(name).is_dir() else find_artifact(name, folder)


def _describe(artifact: Artifact) -> dict[str, Any]:
    described = msgspec.to_builtins(artifact.manifest)
    del described["probe"]
    return {"folder": str(artifact.folder), "checksum": artifact.checksum, **described}


_COLUMNS = ("back end", "prompts/s", "CPU-s / 1,000", "cosine", "least", "same cluster", "Area", "difference")


def _show(row: Mapping[str, Any]) -> list[str]:
    def shown(field: str, pattern: str) -> str:
        return "" if row.get(field) is None else format(row[field], pattern)

    difference = shown("area_difference", "+.4f")
    if difference:
        difference += f" +- {row['area_half_width']:.4f}"
    return [
        row["label"],
        shown("prompts_per_second", ".0f"),
        shown("cpu_seconds_per_1000", ".1f"),
        shown("cosine_mean", ".5f"),
        shown("cosine_min", ".5f"),
        shown("same_cluster", ".2%"),
        shown("area", ".4f"),
        difference,
    ]
