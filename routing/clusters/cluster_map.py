"""The k-means map: centroids of one or several resolutions, stacked, with a temperature that softens them."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routing.clusters.files import pack_arrays, unpack_arrays
from routing.clusters.placement import Placement, check_embeddings, round_weights
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InvalidInputError

#: Rows placed at a time: what is held beside the result is a block of this many rows.
_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClusterMap:
    """Cells around centroids. Immutable: what changes it gives a new map with a new version.

    The weight of cell k in a resolution of K cells is ``softmax_k(temperature * cos(x, mu_k)) / R``; with
    ``temperature = inf`` the map is hard: 1 / R in the cell of the nearest centroid (Euclidean, as k-means
    assigns), 0 elsewhere. Cells are always the hard ones. Source: UniRoute (arXiv 2502.08773), softened and
    stacked.

    Raises ``InvalidInputError`` when the parts do not fit each other.
    """

    #: Shape (C, d), float32: the resolutions one below the other.
    centroids: FloatMatrix
    #: Cells of each resolution.
    sizes: tuple[int, ...]
    #: At least 0; ``inf`` is hard.
    temperature: float
    #: The embedder whose vectors were clustered.
    fingerprint: Fingerprint
    #: Hash of all of the above, 16 hex digits.
    version: str = field(init=False)
    # Derived: centroid lengths and half their squares.
    _lengths: FloatMatrix = field(init=False, repr=False)
    _half_squares: FloatMatrix = field(init=False, repr=False)

    def __post_init__(self) -> None:
        centroids = np.array(self.centroids, dtype=np.float32, order="C")
        sizes = tuple(int(size) for size in self.sizes)
        _check_parts(centroids, sizes, self.temperature, self.fingerprint)
        lengths = np.linalg.norm(centroids, axis=1)
        derived = {
            "centroids": centroids,
            "_lengths": np.where(lengths > 0, lengths, 1).astype(np.float32),
            "_half_squares": (0.5 * (centroids.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32),
        }
        for name, array in derived.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "version", self._hash())

    def _hash(self) -> str:
        digest = hashlib.sha256(repr((self.sizes, self.temperature, self.fingerprint)).encode())
        digest.update(self.centroids.astype("<f4").tobytes())
        return digest.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterMap) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    def with_temperature(self, temperature: float) -> "ClusterMap":
        """Give the same cells with another temperature, ``inf`` for the hard map."""
        return replace(self, temperature=temperature)

    def place(self, X: FloatMatrix) -> Placement:
        """Give weights and cells of unit rows ``X``, shape (n, d): one matrix product for all resolutions."""
        X = check_embeddings(X, self.centroids.shape[1])
        weights = np.empty((len(X), len(self.centroids)), dtype=np.float32)
        cells = np.empty((len(X), len(self.sizes)), dtype=np.int32)
        distances = np.empty(len(X), dtype=np.float32)
        for start in range(0, len(X), _BLOCK):
            rows = slice(start, start + _BLOCK)
            distances[rows] = self._place_block(X[rows], weights[rows], cells[rows])
        return Placement(weights, cells, distances)

    def _place_block(
        self, X: FloatMatrix, weights: NDArray[np.float32], cells: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Fill weights and cells; give the distances to the nearest centroids of the last resolution."""
        products = X @ self.centroids.T
        nearness = products - self._half_squares
        hard = math.isinf(self.temperature)
        if hard:
            weights[:] = 0
        else:
            np.multiply(products, np.float32(self.temperature) / self._lengths, out=weights)
        first = 0
        columns = slice(0, 0)
        for resolution, size in enumerate(self.sizes):
            columns = slice(first, first + size)
            cells[:, resolution] = first + nearness[:, columns].argmax(axis=1)
            if not hard:
                soften_rows(weights[:, columns], parts=len(self.sizes))
            first += size
        if hard:
            np.put_along_axis(weights, cells.astype(np.intp), np.float32(1 / len(self.sizes)), axis=1)
        round_weights(weights)
        squares = np.einsum("nd,nd->n", X, X) - 2 * nearness[:, columns].max(axis=1)
        distances: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0)).astype(np.float32)
        return distances

    def weights(self, X: FloatMatrix) -> NDArray[np.float32]:
        """Give the weights of unit rows ``X``: shape (n, C), float32, rows summing to 1."""
        return self.place(X).weights

    def cells(self, X: FloatMatrix) -> NDArray[np.int32]:
        """Give, for each resolution, the column of the nearest centroid: shape (n, R)."""
        return self.place(X).cells

    def to_bytes(self) -> bytes:
        """Give the map as a file's content: an npz archive with a JSON header, and no pickle."""
        header = {
            "kind": "kmeans",
            "version": self.version,
            "sizes": list(self.sizes),
            "temperature": repr(self.temperature),
            "fingerprint": self.fingerprint.as_dict(),
        }
        return pack_arrays(header, {"centroids": self.centroids})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` gave; ``InvalidInputError`` when it is damaged or something else."""
        header, arrays = unpack_arrays(data, kind="kmeans", names=("centroids",))
        loaded = cls(
            centroids=arrays["centroids"],
            sizes=tuple(header["sizes"]),
            temperature=float(header["temperature"]),
            fingerprint=Fingerprint.from_dict(header["fingerprint"]),
        )
        if loaded.version != header["version"]:
            raise InvalidInputError(
                "cluster map", f"content does not match its version {header['version']!r}"
            )
        return loaded


def soften_rows(logits: NDArray[np.float32], *, parts: int = 1) -> None:
    """Replace each row by its softmax divided by ``parts``, in place; safe for logits of any size."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True) * np.float32(parts)


def _check_parts(
    centroids: FloatMatrix, sizes: tuple[int, ...], temperature: float, fingerprint: Fingerprint
) -> None:
    if centroids.shape[1:] != (fingerprint.dimension,):
        raise InvalidInputError(
            "centroids", f"must have shape (C, {fingerprint.dimension}), not {centroids.shape}"
        )
    if not np.all(np.isfinite(centroids)):
        raise InvalidInputError("centroids", "must be finite")
    if not sizes or min(sizes) < 1 or sum(sizes) != len(centroids):
        raise InvalidInputError("sizes", f"must be at least 1 each and sum to {len(centroids)}, not {sizes}")
    if math.isnan(temperature) or temperature < 0:
        raise InvalidInputError("temperature", f"must be at least 0 (inf: hard), not {temperature!r}")
