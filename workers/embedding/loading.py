"""Opens an artifact on the back end that a setting names, and refuses one whose vectors are wrong."""

import os
import threading
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from routing.embedders import Embedder, Fingerprint
from routing.errors import FingerprintMismatchError, InvalidInputError
from workers.embedding.artifacts import (
    MODEL,
    PROBE_TEXT,
    TOKENIZER,
    Artifact,
    Precision,
    Runtime,
    check_files,
    find_artifact,
    list_artifacts,
    name_arithmetic,
    read_artifact,
)
from workers.embedding.errors import ArtifactError, BackendUnavailableError
from workers.embedding.extras import is_installed
from workers.embedding.onnxruntime import open_onnxruntime
from workers.embedding.openvino import open_openvino
from workers.embedding.reference import SentenceTransformersEmbedder
from workers.embedding.sources import find_source
from workers.embedding.static import StaticEmbedder
from workers.embedding.tokens import Tokens
from workers.embedding.transformers import TransformerEmbedder
from workers.settings import Settings

Backend = Literal["auto", "openvino", "onnxruntime", "sentence-transformers", "static"]

#: One thread at a time opens a back end and has it compute for the first time. OpenVINO sets up its bindings
#: at its first inference: of two threads that do so at once, one waits for the other's set-up and holds the
#: GIL that this set-up waits for, and the process stands still for ever.
_FIRST_USE = threading.Lock()
DEFAULT_FOLDER = Path("~/.cache/uniroute/embedders").expanduser()
#: What a fingerprint can call its precision, and what computes that.
ARITHMETICS: dict[str, tuple[Runtime, Precision]] = {
    name_arithmetic("sentence-transformers", "f32"): ("sentence-transformers", "f32"),
    name_arithmetic("openvino", "f32"): ("openvino", "f32"),
    name_arithmetic("openvino", "bf16"): ("openvino", "bf16"),
    name_arithmetic("onnxruntime", "f32"): ("onnxruntime", "f32"),
    name_arithmetic("static", "f32"): ("static", "f32"),
}
#: Least cosine between a back end's vector of the probe and the manifest's.
PROBE_COSINE: dict[Precision, float] = {"f32": 0.9999, "bf16": 0.999}


def load_embedder(
    artifact: str | Path,
    *,
    backend: Backend = "auto",
    precision: Precision = "f32",
    threads: int | None = None,
    folder: Path = DEFAULT_FOLDER,
) -> Embedder:
    """Open an artifact: a folder, or the name of one in ``folder`` (its newest).

    ``auto`` takes OpenVINO where it is installed, else onnxruntime; for a static artifact, ``static``.
    With ``sentence-transformers`` the artifact's own source is loaded, or, where there is no such
    artifact, the model of that name. Only that back end imports torch. ``threads`` defaults to the cores
    this process may use.

    Every file is checked against the manifest, and the vector of a probe text against the one that
    sentence-transformers gave when the artifact was made. Raises ``ArtifactError``,
    ``BackendUnavailableError``.
    """
    threads = _count_threads(threads)
    if backend not in get_args(Backend):
        raise InvalidInputError("backend", f"{backend!r} is none of {', '.join(get_args(Backend))}")
    if backend == "sentence-transformers":
        return _load_reference(artifact, precision, threads=threads, folder=folder)
    return _open(_locate(artifact, folder), backend, precision, threads)


def open_for(
    fingerprint: Fingerprint,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    folder: Path = DEFAULT_FOLDER,
) -> Embedder:
    """Open what a cluster map was fitted on: the artifact in ``folder``, on the map's own back end.

    ``auto`` takes the back end that the fingerprint names, no other: vectors of two back ends differ in
    their last digits, and a prompt on the edge of a cell would depend on the machine that read it. Another
    ``backend`` than the map's, or an artifact that is not the map's, is a ``FingerprintMismatchError`` that
    says in what the nearest one differs; no artifact at all an ``ArtifactError``; a back end that cannot run
    here a ``BackendUnavailableError``.
    """
    runtime, precision = _read_arithmetic(fingerprint.precision)
    if backend not in ("auto", runtime):
        raise FingerprintMismatchError(
            (f"the embedder back end is set to {backend!r}, and the map was fitted with {runtime!r}",)
        )
    if runtime == "sentence-transformers":
        embedder = load_embedder(fingerprint.name, backend=runtime, threads=threads, folder=folder)
        fingerprint.require(embedder.fingerprint)
        return embedder
    artifacts = list_artifacts(folder)
    if not artifacts:
        raise ArtifactError(
            folder, f"holds no artifact; make one: uniroute embedder export {fingerprint.name}"
        )
    compared = [
        (fingerprint.differences(artifact.fingerprint(runtime, precision)), artifact)
        for artifact in reversed(artifacts)
    ]
    differences, nearest = min(compared, key=lambda one: len(one[0]))
    if differences:
        raise FingerprintMismatchError(differences)
    return load_embedder(nearest.folder, backend=runtime, precision=precision, threads=threads)


def open_configured(settings: Settings, fingerprint: Fingerprint) -> Embedder:
    """``open_for`` with the back end, threads and folder of the settings."""
    return open_for(
        fingerprint,
        backend=settings.embedder_backend,
        threads=settings.embedder_threads,
        folder=settings.embedders_folder,
    )


def verify_artifact(folder: Path, *, backend: Backend = "auto", precision: Precision = "f32") -> Fingerprint:
    """Check an artifact's hashes, its dimension and the vector of a probe text; give its fingerprint.

    ``ArtifactError`` says what is wrong.
    """
    return load_embedder(folder, backend=backend, precision=precision).fingerprint


def _locate(artifact: str | Path, folder: Path) -> Artifact:
    if isinstance(artifact, Path) or (os.sep in artifact and Path(artifact).is_dir()):
        return read_artifact(Path(artifact))
    return find_artifact(artifact, folder)


def _open(artifact: Artifact, backend: Backend, precision: Precision, threads: int) -> Embedder:
    check_files(artifact)
    if (artifact.manifest.kind == "static") != (backend == "static") and backend != "auto":
        raise BackendUnavailableError(
            backend, f"{artifact.folder} is a {artifact.manifest.kind} artifact; use auto"
        )
    with _FIRST_USE:
        if artifact.manifest.kind == "static":
            embedder: Embedder = StaticEmbedder(artifact)
        else:
            embedder = open_transformer(artifact, backend=backend, precision=precision, threads=threads)
        _check_probe(embedder, artifact)
    return embedder


def open_transformer(
    artifact: Artifact,
    *,
    backend: Backend = "auto",
    precision: Precision = "f32",
    threads: int | None = None,
) -> TransformerEmbedder:
    """Open a transformer without the checks of its files and its probe that ``load_embedder`` makes."""
    model, cores = artifact.folder / MODEL, _count_threads(threads)
    if backend == "openvino" or (backend == "auto" and (precision == "bf16" or is_installed("openvino"))):
        runtime: Runtime = "openvino"
        run = open_openvino(model, precision=precision, threads=cores)
    elif precision == "f32":
        runtime = "onnxruntime"
        run = open_onnxruntime(model, threads=cores)
    else:
        raise BackendUnavailableError("onnxruntime", f"it has no {precision}; use openvino, or precision f32")
    manifest = artifact.manifest
    tokens = Tokens(artifact.folder / TOKENIZER, max_length=manifest.max_length)
    return TransformerEmbedder(run, tokens, artifact.fingerprint(runtime, precision), pad_id=manifest.pad_id)


def _check_probe(embedder: Embedder, artifact: Artifact) -> None:
    vector = embedder.encode([PROBE_TEXT])[0]
    if len(vector) != artifact.manifest.dimension:
        raise ArtifactError(
            artifact.folder, f"gives {len(vector)} dimensions, not {artifact.manifest.dimension}"
        )
    cosine = float(vector @ np.asarray(artifact.manifest.probe, dtype=np.float32))
    _, precision = _read_arithmetic(embedder.fingerprint.precision)
    least = PROBE_COSINE[precision]
    if not cosine >= least:
        raise ArtifactError(
            artifact.folder,
            f"the vector of its probe text has cosine {cosine:.5f} to the one of sentence-transformers, "
            f"not {least} or more: this back end does not compute this model",
        )


def _load_reference(artifact: str | Path, precision: Precision, *, threads: int, folder: Path) -> Embedder:
    if precision != "f32":
        raise BackendUnavailableError("sentence-transformers", f"it has no {precision} here; use f32")
    try:
        manifest = _locate(artifact, folder).manifest
    except ArtifactError:
        # Not exported: the reference needs no export, only the model.
        return SentenceTransformersEmbedder(find_source(str(artifact)), threads=threads)
    if manifest.kind == "static":
        raise BackendUnavailableError("sentence-transformers", f"{artifact} is a static artifact; use auto")
    wanted = f"{manifest.source}@{manifest.revision}" if manifest.revision else manifest.source
    return SentenceTransformersEmbedder(find_source(wanted), threads=threads)


def _read_arithmetic(text: str) -> tuple[Runtime, Precision]:
    """Read a fingerprint's precision; ``FingerprintMismatchError`` if nothing here computes it."""
    if text not in ARITHMETICS:
        raise FingerprintMismatchError((f"precision is one of {', '.join(ARITHMETICS)}, not {text!r}",))
    return ARITHMETICS[text]


def _count_threads(threads: int | None) -> int:
    if threads is None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return allowed or 1
    if threads < 1:
        raise InvalidInputError("threads", f"must be at least 1, not {threads}")
    return threads
