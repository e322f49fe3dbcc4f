"""LearnedMap: cluster weights that are the softmax of a linear map."""

import hashlib
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routing.clusters.cluster_map import ClusterMap, soften_rows
from routing.clusters.files import pack_arrays, unpack_arrays
from routing.clusters.placement import Placement, check_embeddings, round_weights
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InvalidInputError

#: Rows placed at a time.
_BLOCK = 4096
#: A clustering with every prompt on its centroid has no width; this one stands in, and the map is as good as
#: hard.
_LEAST_WIDTH = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearnedMap:
    """Weights ``softmax_k(directions_k . x + offsets_k)`` over the cells of a k-means map of one resolution.

    The cells, in which labels are counted, stay those of the k-means map; only the weights are learned.
    Source: UniRoute's LearnedMap (arXiv 2502.08773). ``InvalidInputError`` when the parts do not fit.
    """

    #: Whose cells are counted in; one resolution of K cells. Its temperature plays no part.
    cluster_map: ClusterMap
    #: Shape (K, d), float32.
    directions: FloatMatrix
    #: Shape (K,), float32.
    offsets: NDArray[np.float32]
    #: Hash of the content, 16 hex digits.
    version: str = field(init=False)

    def __post_init__(self) -> None:
        shape = self.cluster_map.centroids.shape
        if len(self.cluster_map.sizes) != 1:
            raise InvalidInputError("cluster_map", "must have one resolution")
        for name, expected in (("directions", shape), ("offsets", shape[:1])):
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            if array.shape != expected or not np.all(np.isfinite(array)):
                raise InvalidInputError(name, f"must be finite and have shape {expected}, not {array.shape}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        digest = hashlib.sha256(self.cluster_map.version.encode())
        digest.update(self.directions.astype("<f4").tobytes() + self.offsets.astype("<f4").tobytes())
        object.__setattr__(self, "version", digest.hexdigest()[:16])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LearnedMap) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The one resolution's number of cells."""
        return self.cluster_map.sizes

    @property
    def fingerprint(self) -> Fingerprint:
        """The embedder whose vectors the map reads."""
        return self.cluster_map.fingerprint

    def place(self, X: FloatMatrix) -> Placement:
        """Give learned weights and k-means cells of unit rows ``X``, shape (n, d)."""
        placed = self.cluster_map.place(X)
        return Placement(self.weights(X), placed.cells, placed.distances)

    def weights(self, X: FloatMatrix) -> NDArray[np.float32]:
        """Give the weights of unit rows ``X``: shape (n, K), float32, rows summing to 1."""
        X = check_embeddings(X, self.directions.shape[1])
        weights = np.empty((len(X), len(self.directions)), dtype=np.float32)
        for start in range(0, len(X), _BLOCK):
            block = weights[start : start + _BLOCK]
            np.matmul(X[start : start + _BLOCK], self.directions.T, out=block)
            block += self.offsets
            soften_rows(block)
            round_weights(block)
        return weights

    def cells(self, X: FloatMatrix) -> NDArray[np.int32]:
        """Give the column of the nearest centroid: shape (n, 1)."""
        return self.cluster_map.cells(X)

    def to_bytes(self) -> bytes:
        """Give the map as a file's content: an npz archive with a JSON header, and no pickle."""
        header = {
            "kind": "learned",
            "version": self.version,
            "temperature": repr(self.cluster_map.temperature),
            "fingerprint": self.fingerprint.as_dict(),
        }
        arrays = {
            "centroids": self.cluster_map.centroids,
            "directions": self.directions,
            "offsets": self.offsets,
        }
        return pack_arrays(header, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` gave; ``InvalidInputError`` when it is damaged or something else."""
        header, arrays = unpack_arrays(data, kind="learned", names=("centroids", "directions", "offsets"))
        cluster_map = ClusterMap(
            centroids=arrays["centroids"],
            sizes=(len(arrays["centroids"]),),
            temperature=float(header["temperature"]),
            fingerprint=Fingerprint.from_dict(header["fingerprint"]),
        )
        loaded = cls(cluster_map=cluster_map, directions=arrays["directions"], offsets=arrays["offsets"])
        if loaded.version != header["version"]:
            raise InvalidInputError("cluster map", f"content does not match version {header['version']!r}")
        return loaded


def soften_map(cluster_map: ClusterMap, X: FloatMatrix) -> LearnedMap:
    """Give the softened k-means map that learning starts from: logits ``(2 mu_k . x - |mu_k|^2) / tau``.

    That is the softmax of ``-|x - mu_k|^2 / tau``, with ``tau`` the mean squared distance of the training
    prompts ``X``, shape (n, d), to their centroids.
    """
    cells = cluster_map.cells(X)[:, 0]
    gaps = (X - cluster_map.centroids[cells]).astype(np.float64)
    tau = max(float((gaps**2).sum(axis=1).mean()) if len(gaps) else 0.0, _LEAST_WIDTH)
    centroids = cluster_map.centroids.astype(np.float64)
    return LearnedMap(
        cluster_map=cluster_map,
        directions=(2 * centroids / tau).astype(np.float32),
        offsets=(-(centroids**2).sum(axis=1) / tau).astype(np.float32),
    )
