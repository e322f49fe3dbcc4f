"""Logistic loss and its minimum: what the learned estimators descend."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.covariance import LedoitWolf

from routing.quality.counts import Matrix, Vector

#: Of a level, in squared logits: about the .005 that PoolPrior grants an overall error rate.
LEAST_LEVEL_VARIANCE = 0.1

Loss = Callable[[Vector], tuple[float, Vector]]


def logistic_loss(logits: Matrix, right: Matrix) -> tuple[float, Matrix]:
    """Give the mean of ``-right log s - (1 - right) log(1 - s)``, s = sigma(logits), and its gradient."""
    size = max(1, logits.size)
    loss = float((np.logaddexp(0.0, logits) - right * logits).sum()) / size
    return loss, (expit(logits) - right) / size


def minimise(loss: Loss, start: Vector, *, iterations: int) -> Vector:
    """Descend by L-BFGS for at most ``iterations`` steps; ``loss`` gives the value and the gradient."""
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return np.asarray(found.x, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorPrior:
    """A Gaussian over the vectors of LLMs, learned from those of the known ones."""

    #: Shape (r,).
    mean: Vector
    #: Inverse covariance, shape (r, r).
    precision: Matrix

    @classmethod
    def fit(cls, vectors: Matrix) -> "VectorPrior":
        """Learn it from known LLMs' vectors, (S, r), whose last coordinate is the LLM's level.

        Fewer than two leave the unit covariance around them. However alike the known LLMs' levels are, a
        new one's may differ: its variance is raised by ``LEAST_LEVEL_VARIANCE``.
        """
        n_llms, length = vectors.shape
        mean = vectors.mean(axis=0) if n_llms else np.zeros(length)
        if n_llms < 2:  # noqa: PLR2004 - one vector has no spread
            return cls(mean=mean, precision=np.eye(length))
        covariance = LedoitWolf(assume_centered=True).fit(vectors - mean).covariance_
        covariance = covariance * (1 + 6 / n_llms) * n_llms / (n_llms - 1) + 1e-3 * np.eye(length)
        covariance[-1, -1] += LEAST_LEVEL_VARIANCE
        return cls(mean=mean, precision=np.linalg.inv(covariance))

    def fit_vector(self, features: Matrix, offsets: Vector, right: Vector) -> Vector:
        """Find the likeliest vector v of an LLM that was right as ``right`` (N,) says.

        P(right) = sigma(offsets + features v); ``features`` (N, r). A convex problem; without labels v is the
        mean.
        """
        if len(right) == 0:
            return self.mean.copy()

        def loss(vector: Vector) -> tuple[float, Vector]:
            value, gradient = logistic_loss(offsets + features @ vector, right)
            pull = self.precision @ (vector - self.mean) / len(right)
            return value + 0.5 * float(pull @ (vector - self.mean)), features.T @ gradient + pull

        return minimise(loss, self.mean, iterations=200)
