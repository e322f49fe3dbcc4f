"""The embedder that runs an exported transformer, whichever runtime computes it."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from routing.embedders import Embedder, Fingerprint, FloatMatrix
from routing.errors import InvalidInputError
from workers.embedding.tokens import Tokens
from workers.embedding.windows import IntMatrix, micro_batches, pad_rows

#: Token ids and attention mask, each (rows, width), to unit vectors (rows, dimension).
Run = Callable[[IntMatrix, IntMatrix], FloatMatrix]

#: Texts that are tokenised and sorted together: more sort no better, and a window bounds memory.
WINDOW = 4096


class TransformerEmbedder(Embedder):
    """Tokenises, sorts by length, runs micro-batches, and gives the rows back in the order of the texts.

    A vector does not depend on the batch it travels in, beyond the last digits of its precision. Calls from
    several threads are served one after the other.
    """

    def __init__(self, run: Run, tokens: Tokens, fingerprint: Fingerprint, *, pad_id: int) -> None:
        self._run = run
        self._tokens = tokens
        self._fingerprint = fingerprint
        self._pad_id = pad_id
        self._turn = threading.Lock()

    @property
    def fingerprint(self) -> Fingerprint:
        """Whose vectors these are."""
        return self._fingerprint

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give one unit-length row per text, shape ``(len(texts), dimension)``, in the order of ``texts``.

        A text is read up to ``max_length`` tokens, and of a very long one no more than ``32 * max_length``
        characters; the empty text has a vector too; lone surrogates read as U+FFFD.
        """
        if isinstance(texts, str):
            raise InvalidInputError("texts", "is one string; give a list of strings")
        vectors = np.empty((len(texts), self._fingerprint.dimension), dtype=np.float32)
        for start in range(0, len(texts), WINDOW):
            rows = self._tokens.ids(texts[start : start + WINDOW])
            vectors[start : start + len(rows)] = self.encode_tokens(rows)
        return vectors

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> FloatMatrix:
        """Give one unit-length row per list of token ids, special tokens included, in their order."""
        vectors = np.empty((len(rows), self._fingerprint.dimension), dtype=np.float32)
        with self._turn:
            for batch in micro_batches([len(row) for row in rows]):
                ids, mask = pad_rows([rows[index] for index in batch], pad_id=self._pad_id)
                vectors[batch] = self._run(ids, mask)
        return vectors
