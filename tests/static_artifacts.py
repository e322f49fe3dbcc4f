"""A static embedder artifact of a few kilobytes, written without any model: what worker processes open."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from workers.embedding.artifacts import PROBE_TEXT, TABLE, TOKENIZER, Manifest
from workers.embedding.publishing import drafting, publish, utc_now, write_manifest
from workers.embedding.static import StaticTable

#: Of the usual artifact.
WORDS = ("[UNK]", "red", "green", "blue", "apple", "pear", "plum", "prompt", "router", "number", "what")
DIMENSION = 8
_MAX_LENGTH = 32


def write_static_artifact(
    folder: Path,
    *,
    name: str = "words",
    seed: int = 0,
    words: Sequence[str] = WORDS,
    dimension: int = DIMENSION,
) -> Path:
    """Write an artifact below ``folder``, a random vector per word, and give its path.

    The first of ``words`` stands for every other one.
    """
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    table = np.random.default_rng(seed).normal(size=(len(words), dimension)).astype(np.float16)
    with drafting(folder) as draft:
        np.save(draft / TABLE, table, allow_pickle=False)
        tokenizer.save(str(draft / TOKENIZER))
        rows = StaticTable(draft / TABLE, draft / TOKENIZER, max_length=_MAX_LENGTH, pad_id=0)
        manifest = Manifest(
            kind="static",
            name=name,
            dimension=dimension,
            max_length=_MAX_LENGTH,
            pooling="mean",
            pad_id=0,
            files={},
            probe=rows.encode([PROBE_TEXT])[0].tolist(),
            source=name,
            exporter="a test",
            exported_at=utc_now(),
        )
        write_manifest(draft, manifest)
        return publish(draft, folder)
