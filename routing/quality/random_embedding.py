"""Random embeddings: what clusters and shrinkage give for nothing, without a look at the prompt's meaning."""

import hashlib
import math

import numpy as np

from routing.clusters.cluster_map import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.quality.cells import CellEstimator
from routing.quality.counts import Matrix, Vector
from routing.quality.shrinkage import shrink_error_rates


class RandomEmbedding(CellEstimator):
    """Replaces each prompt's embedding by a random unit vector of its own, then does as ``ShrunkCells`` does.

    The vector is drawn from a hash of the prompt's embedding, so a prompt always gets the same one. The
    clusters are the cells of ``n_clusters`` random directions: there is nothing in random vectors that
    k-means could find.
    """

    def __init__(self, n_clusters: int = 20, dimension: int = 32, seed: int = 0) -> None:
        self.n_clusters = n_clusters
        self.dimension = dimension
        self.seed = seed

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:  # noqa: ARG002 - neither matters here
        directions = np.random.default_rng(self.seed).standard_normal((self.n_clusters, self.dimension))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        fingerprint = Fingerprint(
            name="random", dimension=self.dimension, precision="f32", max_length=0, checksum=str(self.seed)
        )
        self.map_ = ClusterMap(
            centroids=directions.astype(np.float32),
            sizes=(self.n_clusters,),
            temperature=math.inf,
            fingerprint=fingerprint,
        )

    def _rates(self, errors: Matrix, labels: Matrix) -> Matrix:
        level = self.level_ if labels.sum() <= 0 else None
        return shrink_error_rates(errors, labels, sizes=self.map_.sizes, level=level)

    def _learn(self, X: FloatMatrix, errors: Vector) -> Vector:
        return super()._learn(self._scramble(X), errors)

    def _predict(self, X: FloatMatrix, learned: list[Vector]) -> Matrix:
        return super()._predict(self._scramble(X), learned)

    def _scramble(self, X: FloatMatrix) -> FloatMatrix:
        """Give each row a random unit vector that depends on its bytes and the seed alone."""
        salt = self.seed.to_bytes(8, "little", signed=True)
        scrambled = np.empty((len(X), self.dimension), dtype=np.float32)
        for row, embedding in enumerate(np.ascontiguousarray(X)):
            digest = hashlib.blake2b(embedding.tobytes(), digest_size=16, key=salt).digest()
            draw = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
            vector = draw.standard_normal(self.dimension)
            scrambled[row] = vector / np.linalg.norm(vector)
        return scrambled
