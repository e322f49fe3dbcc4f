"""The model as sentence-transformers runs it: slow, needs torch, and the measure of every back end."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from routing.embedders import Embedder, Fingerprint, FloatMatrix
from workers.embedding.artifacts import file_sha256, name_arithmetic
from workers.embedding.extras import require
from workers.embedding.sources import Source
from workers.embedding.tokens import clean_texts

BATCH_ROWS = 16


def load_model(source: Source) -> Any:  # noqa: ANN401 - its type is not known where it is not installed
    """Load a source on the CPU in f32, with attention that an export can follow, running none of its code."""
    library = require("sentence_transformers", extra="export")
    require("transformers", extra="export").utils.logging.disable_progress_bar()
    return library.SentenceTransformer(
        str(source.folder),
        device="cpu",
        trust_remote_code=False,
        model_kwargs={"attn_implementation": "eager", "dtype": "float32"},
    ).eval()


def source_checksum(source: Source) -> str:
    """SHA-256 over the lines ``sha256  file`` of a source's weights, settings and tokenizer, sorted."""
    kept = sorted(
        path
        for path in source.folder.rglob("*")
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".json", ".txt", ".model")
    )
    lines = "".join(f"{file_sha256(path)}  {path.relative_to(source.folder).as_posix()}\n" for path in kept)
    return hashlib.sha256(lines.encode()).hexdigest()


class SentenceTransformersEmbedder(Embedder):
    """A model loaded by sentence-transformers, its vectors brought to unit length.

    Its fingerprint holds the checksum of the source, not of an artifact, and says what computed it: a map
    fitted with it asks for it again. ``threads`` is set for the whole process:
    torch knows no other way.
    """

    def __init__(self, source: Source, *, threads: int) -> None:
        require("torch", extra="export").set_num_threads(threads)
        #: The loaded ``SentenceTransformer``.
        self.model = load_model(source)
        self._fingerprint = Fingerprint(
            name=source.name,
            dimension=int(self.model.get_embedding_dimension()),
            precision=name_arithmetic("sentence-transformers", "f32"),
            max_length=int(self.model.max_seq_length),
            checksum=source_checksum(source),
        )
        self._turn = threading.Lock()

    @property
    def fingerprint(self) -> Fingerprint:
        """Whose vectors these are."""
        return self._fingerprint

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give one unit-length row per text, in the order of ``texts``, read as by the other back ends."""
        cleaned = clean_texts(texts, max_length=self._fingerprint.max_length)
        if not cleaned:
            return np.empty((0, self._fingerprint.dimension), dtype=np.float32)
        with self._turn:
            vectors = self.model.encode(
                cleaned,
                batch_size=BATCH_ROWS,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return cast(FloatMatrix, vectors)
