"""An embedder without a transformer: the mean of one vector per token, looked up in a table."""

from collections.abc import Sequence

import numpy as np

from routing.embedders import Embedder, Fingerprint, FloatMatrix
from workers.embedding.artifacts import TABLE, TOKENIZER, Artifact
from workers.embedding.tokens import Tokens


class StaticEmbedder(Embedder):
    """Thirty times as fast as a transformer, in a space of its own that separates prompts less well.

    Source: the model2vec method (a token's vector is distilled from a transformer, weighted by its rarity).
    """

    def __init__(self, artifact: Artifact) -> None:
        self._table: FloatMatrix = np.load(artifact.folder / TABLE, allow_pickle=False)
        self._tokens = Tokens(
            artifact.folder / TOKENIZER, max_length=artifact.manifest.max_length, special=False
        )
        self._pad_id = artifact.manifest.pad_id
        self._fingerprint = artifact.fingerprint()

    @property
    def fingerprint(self) -> Fingerprint:
        """Whose vectors these are."""
        return self._fingerprint

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give one unit-length row per text, in order; a text without tokens has the pad token's."""
        rows = [ids or [self._pad_id] for ids in self._tokens.ids(texts)]
        vectors = np.empty((len(rows), self._table.shape[1]), dtype=np.float32)
        for index, ids in enumerate(rows):
            np.mean(self._table[ids], axis=0, out=vectors[index])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors
