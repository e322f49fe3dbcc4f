"""ZeroRouter: one error rate per LLM, blind to the prompt; what every router has to beat."""

import numpy as np

from routing.embedders import FloatMatrix
from routing.quality.counts import Matrix, Vector
from routing.quality.estimators import OnboardingEstimator


class ZeroRouter(OnboardingEstimator[float]):
    """Predicts an LLM's mean error over its labels, for every prompt; without labels the known LLMs' mean.

    It equals UniRoute with one cluster. Compare with it on the convex hull (random mixing), where it is at
    its best. Source: UniRoute (arXiv 2502.08773).
    """

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:
        pass

    def _learn(self, X: FloatMatrix, errors: Vector) -> float:  # noqa: ARG002 - prompts are not looked at
        return float(errors.mean()) if len(errors) else self.level_.mean

    def _predict(self, X: FloatMatrix, learned: list[float]) -> Matrix:
        return np.tile(np.array(learned), (len(X), 1))
