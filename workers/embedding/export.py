"""Turns any model that sentence-transformers loads into an embedder artifact; only this needs torch."""

from pathlib import Path

import numpy as np

from workers.embedding.artifacts import MODEL, PROBE_TEXT, TOKENIZER, Manifest, list_artifacts
from workers.embedding.errors import ArtifactError, UnsupportedModelError
from workers.embedding.graph import OPSET, read_pooling, write_graph
from workers.embedding.loading import DEFAULT_FOLDER, load_embedder
from workers.embedding.publishing import describe_exporter, drafting, publish, utc_now, write_manifest
from workers.embedding.reference import SentenceTransformersEmbedder
from workers.embedding.sources import DEFAULT_MODEL, Source, find_source

#: Least cosine between the artifact and sentence-transformers on every text below.
LEAST_COSINE = 0.9999
#: Empty, short, far past any maximum, and of several scripts: each takes another way through tokenizer
#: and graph.
CHECK_TEXTS = (
    "",
    "a",
    PROBE_TEXT,
    "def area(radius: float) -> float:\n    return 3.14159 * radius**2  # what is its unit?",
    "Löse die Gleichung x² - 5x + 6 = 0. 次の質問に答えてください。 Сколько будет 2+2? \N{DUCK}",
    "A train leaves at 9:40 and arrives at 12:05; how long does the journey take? " * 4,
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 2000,
)


def export_artifact(model: str = DEFAULT_MODEL, folder: Path = DEFAULT_FOLDER) -> Path:
    """Load a model with sentence-transformers, write it as an artifact below ``folder``, and give its path.

    ``model`` is a folder, a name of the hub with or without ``@REVISION``, or the default (see
    ``find_source``). It must consist of Transformer, Pooling (mean or cls) and perhaps Normalize;
    ``UnsupportedModelError`` names whatever else it has. The artifact is compared with
    sentence-transformers on texts of many kinds (cosine at least .9999 each) before it gets its name:
    until then, and after any failure, ``folder`` holds nothing new.
    """
    source = find_source(model)
    reference = SentenceTransformersEmbedder(source, threads=1)
    pooling = read_pooling(reference.model, source=model)
    tokenizer = reference.model.tokenizer
    # Left in the file, these would make its hash depend on what was encoded last.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    with drafting(folder) as draft:
        tokenizer.backend_tokenizer.save(str(draft / TOKENIZER))
        write_graph(reference.model, pooling, draft / MODEL)
        manifest = Manifest(
            kind="transformer",
            name=source.name,
            dimension=reference.fingerprint.dimension,
            max_length=reference.fingerprint.max_length,
            pooling=pooling,
            pad_id=tokenizer.pad_token_id or 0,
            files={},
            probe=reference.encode([PROBE_TEXT])[0].tolist(),
            source=source.origin,
            revision=source.revision,
            exporter=f"{describe_exporter('sentence-transformers', 'transformers', 'torch')}, opset {OPSET}",
            exported_at=utc_now(),
        )
        write_manifest(draft, manifest)
        _compare(draft, reference, source)
        return publish(draft, folder)


def ensure_artifact(model: str = DEFAULT_MODEL, folder: Path = DEFAULT_FOLDER) -> Path:
    """Give the newest artifact of a model; if there is none, export it, which alone imports torch.

    A model is known by its name or by what it was exported from, so a folder whose weights have changed since
    has to be exported again.
    """
    for artifact in reversed(list_artifacts(folder)):
        manifest = artifact.manifest
        names = (manifest.name, manifest.source, f"{manifest.source}@{manifest.revision}")
        if manifest.kind == "transformer" and (
            model in names or str(Path(model).resolve()) == manifest.source
        ):
            return artifact.folder
    return export_artifact(model, folder)


def _compare(draft: Path, reference: SentenceTransformersEmbedder, source: Source) -> None:
    try:
        exported = load_embedder(draft, threads=1).encode(CHECK_TEXTS)
    except ArtifactError as error:
        raise UnsupportedModelError(source.origin, error.problem) from error
    cosines = np.sum(exported * reference.encode(CHECK_TEXTS), axis=1)
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= LEAST_COSINE:
        raise UnsupportedModelError(
            source.origin,
            f"its graph gives {CHECK_TEXTS[worst][:40]!r} a vector of cosine {cosines[worst]:.5f} to the one "
            f"of sentence-transformers, not {LEAST_COSINE} or more",
        )
