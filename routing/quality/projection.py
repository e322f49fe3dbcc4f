"""Principal axes of training embeddings: fewer, better scaled inputs for the learned estimators."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from routing.embedders import FloatMatrix
from routing.quality.counts import Matrix, Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """Maps embeddings (n, d) to coordinates (n, p) of mean 0 and mean variance 1 on the training prompts."""

    mean: Vector
    #: Shape (d, p).
    axes: Matrix

    @classmethod
    def fit(cls, X: FloatMatrix, *, dimensions: int) -> Self:
        """Find the ``dimensions`` axes of greatest variance, or as many as there are; signs are fixed."""
        rows = X.astype(np.float64)
        mean = rows.mean(axis=0)
        variances, axes = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        kept = np.argsort(-variances, kind="stable")[: min(dimensions, X.shape[1])]
        axes = axes[:, kept]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        spread = float(np.maximum(variances[kept], 0.0).mean())
        return cls(mean=mean, axes=axes / np.sqrt(spread) if spread > 0 else axes)

    def apply(self, X: FloatMatrix) -> Matrix:
        """Give the coordinates of rows ``X``, float64."""
        return (X.astype(np.float64) - self.mean) @ self.axes

    def add_intercept(self, X: FloatMatrix) -> Matrix:
        """Give the coordinates with a last column of ones."""
        return np.column_stack([self.apply(X), np.ones(len(X))])
