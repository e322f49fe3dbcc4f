"""RouteLLM: the strong LLM where it is likely to win, for a share of the calls."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from routing.clusters.placement import check_embeddings
from routing.errors import InvalidInputError
from routing.quality.counts import Vector, as_errors
from routing.quality.logistic import VectorPrior
from routing.quality.projection import Projection


class PreferenceRouter(BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Predicts P(strong wins) for one strong and one weak LLM; above alpha the strong one answers.

    The strong LLM wins where its error is less than the weak one's; a tie is no win, since it need not be
    paid for. Logistic regression on ``n_axes`` principal axes, with a ridge of ``penalty`` per axis.
    Source: RouteLLM (arXiv 2406.18665), whose preference data are replaced by graded outcomes of both
    LLMs.
    """

    def __init__(self, n_axes: int = 64, penalty: float = 1.0) -> None:
        self.n_axes = n_axes
        self.penalty = penalty

    def fit(self, X: ArrayLike, weak_errors: ArrayLike, strong_errors: ArrayLike) -> Self:
        """Learn from both LLMs' errors (n,) in [0, 1] on prompts ``X`` (n, d); n is at least 1."""
        rows = np.asarray(X, dtype=np.float32)
        rows = check_embeddings(rows, rows.shape[-1] if rows.ndim else 0)
        if len(rows) == 0:
            raise InvalidInputError("X", "at least one prompt is needed")
        weak = as_errors("weak_errors", weak_errors, shape=(len(rows),))
        strong = as_errors("strong_errors", strong_errors, shape=(len(rows),))
        self.projection_ = Projection.fit(rows, dimensions=self.n_axes)
        inputs = self.projection_.add_intercept(rows)
        ridge = self.penalty * np.eye(inputs.shape[1])
        ridge[-1, -1] = 0.1 * self.penalty
        prior = VectorPrior(mean=np.zeros(len(ridge)), precision=ridge)
        wins = (strong < weak).astype(np.float64)
        self.weights_ = prior.fit_vector(inputs, np.zeros(len(rows)), wins)
        return self

    def predict_win(self, X: ArrayLike) -> Vector:
        """Give P(strong wins) for prompts ``X``: (n,), in [0, 1]."""
        check_is_fitted(self, "weights_")
        rows = check_embeddings(np.asarray(X, dtype=np.float32), len(self.projection_.mean))
        return np.asarray(expit(self.projection_.add_intercept(rows) @ self.weights_))


def calibrate_share(strong_wins: ArrayLike, share: float) -> float:
    """Find the alpha at which ``share`` of these prompts, or just less where they tie, have P(win) >= alpha.

    ``strong_wins`` (n,) are predictions on prompts like those to come. Share 0 gives infinity: never
    strong.
    """
    ranked = np.sort(np.asarray(strong_wins, dtype=np.float64))[::-1]
    if not (0 <= share <= 1) or ranked.size == 0 or not np.all(np.isfinite(ranked)):
        raise InvalidInputError("share", f"a share in [0, 1] of at least one prediction, not {share!r}")
    quota = int(np.floor(share * ranked.size + 1e-9))
    while 0 < quota < ranked.size and ranked[quota] == ranked[quota - 1]:
        quota -= 1
    return float(ranked[quota - 1]) if quota else np.inf


def choose_strong(strong_wins: Vector, alpha: float) -> NDArray[np.bool_]:
    """Tell for each prompt whether the strong LLM answers: P(win) >= alpha."""
    return np.asarray(strong_wins >= alpha)
