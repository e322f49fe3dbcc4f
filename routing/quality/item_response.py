"""Item response: each prompt has a difficulty and a discrimination, each LLM an ability."""

import numpy as np
from scipy.special import expit

from routing.quality.counts import Matrix, Vector
from routing.quality.latent import Encoding, LatentEstimator
from routing.quality.logistic import logistic_loss, minimise


class ItemResponse(LatentEstimator):
    """Predicts P(right) = sigma(a(x) (theta_h - b(x))): the 2PL model with amortised items.

    Discrimination a(x) = softplus of a linear map of the embedding and difficulty b(x), linear, hold for
    prompts never seen. LLMs keep one order for all prompts: what differs is by how much, which is what cost
    is weighed against. Source: Birnbaum's 2PL (in Lord & Novick 1968), with items predicted from text.
    """

    def __init__(self, n_axes: int = 64, penalty: float = 1e-3, iterations: int = 80) -> None:
        self.n_axes = n_axes
        self.penalty = penalty
        self.iterations = iterations

    def _train(self, coordinates: Matrix, right: Matrix) -> Matrix:
        inputs = np.column_stack([coordinates, np.ones(len(coordinates))])
        width, n_llms = inputs.shape[1], right.shape[1]

        def loss(flat: Vector) -> tuple[float, Vector]:
            discriminating, difficult, abilities = np.split(flat, [width, 2 * width])
            slopes = inputs @ discriminating
            a, b = np.logaddexp(0.0, slopes), inputs @ difficult
            gaps = abilities - b[:, None]
            value, by_logit = logistic_loss(a[:, None] * gaps, right)
            by_slope = (by_logit * gaps).sum(axis=1) * expit(slopes)
            gradient = np.concatenate(
                [inputs.T @ by_slope, -inputs.T @ (a * by_logit.sum(axis=1)), by_logit.T @ a]
            )
            return value + 0.5 * self.penalty * float(flat @ flat), gradient + self.penalty * flat

        found = np.zeros(2 * width + n_llms)
        if right.size:
            found = minimise(loss, found, iterations=self.iterations)
        self.discrimination_, self.difficulty_, abilities = np.split(found, [width, 2 * width])
        return abilities[:, None]

    def _encode(self, coordinates: Matrix) -> Encoding:
        inputs = np.column_stack([coordinates, np.ones(len(coordinates))])
        a = np.logaddexp(0.0, inputs @ self.discrimination_)
        return Encoding(a[:, None], -a * (inputs @ self.difficulty_))
