"""An embedder that needs no model: a vector per text from its hash, and a count of what it was asked."""

import hashlib
from collections.abc import Sequence

import numpy as np

from routing.embedders import Fingerprint, FloatMatrix


class FakeEmbedder:
    """Gives each text a unit vector drawn from a generator seeded by its hash."""

    def __init__(self, *, name: str = "fake", dimension: int = 4) -> None:
        self.fingerprint = Fingerprint(
            name=name, dimension=dimension, precision="f32", max_length=8, checksum="0" * 64
        )
        #: Texts encoded so far.
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give the rows, in order."""
        self.encoded.extend(texts)
        vectors = np.array([self._draw(text) for text in texts], dtype=np.float32)
        return vectors.reshape(len(texts), self.fingerprint.dimension)

    def _draw(self, text: str) -> FloatMatrix:
        seed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        vector = np.random.default_rng(list(seed)).normal(size=self.fingerprint.dimension)
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
