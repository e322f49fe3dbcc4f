"""Learned estimators: one encoding per prompt, one vector per LLM, a logistic score of the two."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from routing.embedders import FloatMatrix
from routing.quality.counts import Matrix, Vector
from routing.quality.estimators import OnboardingEstimator
from routing.quality.logistic import VectorPrior
from routing.quality.projection import Projection


class Encoding(NamedTuple):
    """What the score reads of n prompts: P(right) = sigma(offsets + features v) for an LLM's vector v."""

    #: Shape (n, r).
    features: Matrix
    #: Shape (n,).
    offsets: Vector


class LatentEstimator(OnboardingEstimator[Vector]):
    """Trains an encoder and the known LLMs' vectors; then freezes it and fits each new LLM's vector alone.

    A new vector is fitted by logistic loss on its own labels, under a Gaussian learned from the known
    vectors, so that without labels all new LLMs tie and with few they stay near what LLMs are like. After
    ``fit``, ``vectors_`` (S, r) holds the known LLMs' vectors and ``prior_`` that Gaussian.
    """

    #: Principal axes of the embeddings that the encoder reads.
    n_axes: int

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:
        self.projection_ = Projection.fit(X, dimensions=self.n_axes)
        self.vectors_ = self._train(self.projection_.apply(X), 1.0 - errors)
        self.prior_ = VectorPrior.fit(self.vectors_)

    def _learn(self, X: FloatMatrix, errors: Vector) -> Vector:
        encoding = self._encode(self.projection_.apply(X))
        return self.prior_.fit_vector(encoding.features, encoding.offsets, 1.0 - errors)

    def _predict(self, X: FloatMatrix, learned: list[Vector]) -> Matrix:
        encoding = self._encode(self.projection_.apply(X))
        # One product per LLM: a joint one could round a column by what stands beside it.
        logits = [encoding.offsets + encoding.features @ vector for vector in learned]
        return np.asarray(expit(-np.column_stack(logits)))

    @abstractmethod
    def _train(self, coordinates: Matrix, right: Matrix) -> Matrix:
        """Learn from ``coordinates`` (n, p) and ``right`` (n, S); give the LLMs' vectors (S, r)."""

    @abstractmethod
    def _encode(self, coordinates: Matrix) -> Encoding:
        """Encode prompts with what ``_train`` learned."""
