"""Keeps the vectors of texts on disk, for evaluations that read the same prompts again and again."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from routing.embedders import Embedder, Fingerprint, FloatMatrix

DEFAULT_FOLDER = Path("~/.cache/uniroute/embeddings").expanduser()
#: Texts encoded between two calls of ``progress``.
STEP = 1024

#: Told how many texts are encoded, and how many there are.
Progress = Callable[[int, int], None]


def cached_embeddings(
    embedder: Embedder,
    texts: Sequence[str],
    folder: Path = DEFAULT_FOLDER,
    *,
    progress: Progress | None = None,
) -> FloatMatrix:
    """Give ``embedder.encode(texts)``, float32 (n, d), from a file below ``folder`` if it has them.

    The file's name is a hash of the fingerprint and of the texts in their order, so no other embedder and
    no other list finds it. It is renamed into place when it is whole; one that cannot be read is written
    again. A second call gives the same bytes, and calls ``progress`` once, with all done.
    """
    path = folder / f"{cache_key(embedder.fingerprint, texts)}.npy"
    vectors = _read(path, (len(texts), embedder.fingerprint.dimension))
    if vectors is None:
        vectors = _encode(embedder, texts, progress)
        _write(path, vectors)
    elif progress is not None:
        progress(len(texts), len(texts))
    return vectors


def cache_key(fingerprint: Fingerprint, texts: Sequence[str]) -> str:
    """SHA-256 in hex over the fingerprint and the texts, each with its length, so no two lists collide."""
    digest = hashlib.sha256(json.dumps(fingerprint.as_dict(), sort_keys=True).encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


def _encode(embedder: Embedder, texts: Sequence[str], progress: Progress | None) -> FloatMatrix:
    vectors = np.empty((len(texts), embedder.fingerprint.dimension), dtype=np.float32)
    for start in range(0, len(texts), STEP):
        part = texts[start : start + STEP]
        vectors[start : start + len(part)] = embedder.encode(part)
        if progress is not None:
            progress(start + len(part), len(texts))
    return vectors


def _read(path: Path, shape: tuple[int, int]) -> FloatMatrix | None:
    try:
        vectors: FloatMatrix = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        # Absent, or cut short by a full disk: encoding again mends both.
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def _write(path: Path, vectors: FloatMatrix) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".npy", delete=False) as file:
        try:
            np.save(file, vectors, allow_pickle=False)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
