"""The embeddings of a batch's good lines, kept on disk so that each line is embedded once."""

import os
from collections.abc import Sequence
from dataclasses import asdict

import msgspec
import numpy as np

from routing.embedders import Embedder, Fingerprint, FloatMatrix
from workers.batches.folders import BatchFolder
from workers.errors import PoisonError


class Vectors:
    """Rows of float32, appended in the order of the lines; what a crash left of a half row is cut off.

    Rows of another embedder than ``fingerprint`` are thrown away: the map's embedder has changed since.
    """

    def __init__(self, folder: BatchFolder, fingerprint: Fingerprint) -> None:
        self._dimension = fingerprint.dimension
        self._row_bytes = 4 * self._dimension
        known = msgspec.json.encode(asdict(fingerprint))
        if not folder.embedder.exists() or folder.embedder.read_bytes() != known:
            folder.vectors.unlink(missing_ok=True)
            folder.embedder.write_bytes(known)
        self._file = folder.vectors.open("ab+")
        self.count = self._file.seek(0, 2) // self._row_bytes
        self._file.truncate(self.count * self._row_bytes)

    def append(self, embedder: Embedder, texts: Sequence[str]) -> None:
        """Embed the next lines."""
        rows = np.ascontiguousarray(embedder.encode(texts), dtype="<f4")
        self._file.write(rows.tobytes())
        self._file.flush()
        self.count += len(rows)

    def read(self, rows: slice) -> FloatMatrix:
        """Give some rows."""
        start, stop, step = rows.indices(self.count)
        if step != 1:
            return self.pick(range(start, stop, step))
        self._file.seek(start * self._row_bytes)
        raw = self._file.read(max(0, stop - start) * self._row_bytes)
        return self._as_rows(raw, max(0, stop - start))

    def pick(self, rows: Sequence[int]) -> FloatMatrix:
        """Give rows in any order."""
        if not rows:
            return np.empty((0, self._dimension), dtype=np.float32)
        raw = b"".join(os.pread(self._file.fileno(), self._row_bytes, row * self._row_bytes) for row in rows)
        return self._as_rows(raw, len(rows))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _as_rows(self, raw: bytes, count: int) -> FloatMatrix:
        if len(raw) != count * self._row_bytes:
            raise PoisonError("lost_vectors", "the file of embeddings is shorter than it was")
        return np.frombuffer(raw, dtype="<f4").reshape(-1, self._dimension).astype(np.float32)
