"""Makes a static embedder out of an exported transformer: one vector per token, without torch."""

from pathlib import Path

import msgspec
import numpy as np

from routing.embedders import FloatMatrix
from workers.embedding.artifacts import PROBE_TEXT, TABLE, TOKENIZER, Artifact, read_artifact
from workers.embedding.errors import UnsupportedModelError
from workers.embedding.extras import require
from workers.embedding.loading import DEFAULT_FOLDER, open_transformer
from workers.embedding.publishing import describe_exporter, drafting, publish, utc_now, write_manifest
from workers.embedding.static import StaticTable

DIMENSION = 256
#: A static embedder reads long texts at no cost, so it may read more of them than its transformer.
MAX_LENGTH = 512
#: Arora et al. 2017, ``a``: a token of probability p weighs a / (a + p).
RARITY = 1e-4


def distill_artifact(
    transformer: Path,
    folder: Path = DEFAULT_FOLDER,
    *,
    dimension: int = DIMENSION,
    threads: int | None = None,
) -> Path:
    """Write a static artifact below ``folder``, named ``NAME-static-DIMENSION``, and give its path.

    Each token of the vocabulary is read by the transformer as a text of its own; the vectors are brought to
    ``dimension`` by principal components and weighted by rarity, as Zipf's law gives it for a vocabulary
    sorted by frequency. About half a minute for 30,000 tokens. Source: Tulkens & van Dongen 2024,
    model2vec.
    """
    parent = read_artifact(transformer)
    if parent.manifest.kind != "transformer":
        raise UnsupportedModelError(parent.manifest.name, "it is static already")
    if not 1 <= dimension <= parent.manifest.dimension:
        raise UnsupportedModelError(
            parent.manifest.name, f"its vectors have {parent.manifest.dimension} dimensions, not {dimension}"
        )
    table = weight_by_rarity(reduce_dimension(_encode_vocabulary(parent, threads), dimension))
    with drafting(folder) as draft:
        np.save(draft / TABLE, table.astype(np.float16), allow_pickle=False)
        (draft / TOKENIZER).write_bytes((parent.folder / TOKENIZER).read_bytes())
        pad_id = parent.manifest.pad_id
        rows = StaticTable(draft / TABLE, draft / TOKENIZER, max_length=MAX_LENGTH, pad_id=pad_id)
        manifest = {
            "kind": "static",
            "name": f"{parent.manifest.name}-static-{dimension}",
            "dimension": dimension,
            "max_length": MAX_LENGTH,
            "files": {},
            "probe": rows.encode([PROBE_TEXT])[0].tolist(),
            "exporter": f"{describe_exporter('numpy')}, from {parent.folder.name}",
            "exported_at": utc_now(),
        }
        write_manifest(draft, msgspec.structs.replace(parent.manifest, **manifest))
        return publish(draft, folder)


def reduce_dimension(vectors: FloatMatrix, dimension: int) -> FloatMatrix:
    """Centre the rows and project them on their ``dimension`` principal components, the largest first."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return np.asarray(centred @ directions[:, ::-1][:, :dimension], dtype=np.float32)


def weight_by_rarity(vectors: FloatMatrix, *, rarity: float = RARITY) -> FloatMatrix:
    """Scale row i by a / (a + p), where p is proportional to 1 / (i + 2): rows are sorted by frequency."""
    share = 1.0 / np.arange(2, len(vectors) + 2)
    weights = rarity / (rarity + share / share.sum())
    return np.asarray(vectors * weights[:, None], dtype=np.float32)


def _encode_vocabulary(parent: Artifact, threads: int | None) -> FloatMatrix:
    embedder = open_transformer(parent, threads=threads)
    tokenizer = require("tokenizers", extra="onnx").Tokenizer.from_file(str(parent.folder / TOKENIZER))
    special = tokenizer.encode("").ids
    begin, end = special[:1], special[1:]
    return embedder.encode_tokens([[*begin, token, *end] for token in range(tokenizer.get_vocab_size())])
