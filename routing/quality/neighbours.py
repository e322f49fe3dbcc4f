"""kNN: the mean error of the labelled prompts nearest to a prompt."""

from typing import NamedTuple

import numpy as np

from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError
from routing.quality.counts import Matrix, Vector
from routing.quality.estimators import OnboardingEstimator


class LabelledPrompts(NamedTuple):
    """One LLM's labels."""

    embeddings: FloatMatrix
    errors: Vector


class NearestNeighbours(OnboardingEstimator[LabelledPrompts]):
    """Predicts the mean error of the ``n_neighbours`` labelled prompts with the greatest cosine.

    Fewer labels than that are all used; without labels it is the known LLMs' mean error. With one
    neighbour it is UniRoute with one cluster per labelled prompt. Memory grows with the labels, unlike
    that of cluster maps.
    """

    def __init__(self, n_neighbours: int = 20) -> None:
        self.n_neighbours = n_neighbours

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:  # noqa: ARG002 - only labels count
        if self.n_neighbours < 1:
            raise InvalidInputError("n_neighbours", f"at least 1, not {self.n_neighbours}")

    def _learn(self, X: FloatMatrix, errors: Vector) -> LabelledPrompts:
        return LabelledPrompts(X.copy(), errors.copy())

    def _predict(self, X: FloatMatrix, learned: list[LabelledPrompts]) -> Matrix:
        return np.column_stack([self._predict_one(X, labels) for labels in learned])

    def _predict_one(self, X: FloatMatrix, labels: LabelledPrompts) -> Vector:
        if len(labels.errors) == 0:
            return np.full(len(X), self.level_.mean)
        cosines = X @ labels.embeddings.T
        k = min(self.n_neighbours, len(labels.errors))
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        return np.asarray(labels.errors[nearest].mean(axis=1))
