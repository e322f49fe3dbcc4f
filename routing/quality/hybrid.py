"""Hybrid LLM: the small LLM wherever it is predicted to be about as good, within a drop that is tolerated."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from routing.clusters.placement import check_embeddings
from routing.errors import InvalidInputError
from routing.quality.counts import Vector, as_errors
from routing.quality.projection import Projection


class HybridRouter(BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Predicts the quality gap q(small) - q(large) of a prompt; the small LLM answers where it is >= -t.

    Ridge regression of the gap on ``n_axes`` principal axes. ``calibrate`` finds the t that sends the most
    prompts to the small LLM while their mean quality falls by no more than is tolerated. Source: Hybrid LLM
    (arXiv 2404.14618), with a linear model in place of its encoder.
    """

    def __init__(self, n_axes: int = 64, penalty: float = 10.0) -> None:
        self.n_axes = n_axes
        self.penalty = penalty

    def fit(self, X: ArrayLike, small_errors: ArrayLike, large_errors: ArrayLike) -> Self:
        """Learn from both LLMs' errors (n,) in [0, 1] on prompts ``X`` (n, d); n is at least 1."""
        rows = np.asarray(X, dtype=np.float32)
        rows = check_embeddings(rows, rows.shape[-1] if rows.ndim else 0)
        if len(rows) == 0:
            raise InvalidInputError("X", "at least one prompt is needed")
        small = as_errors("small_errors", small_errors, shape=(len(rows),))
        large = as_errors("large_errors", large_errors, shape=(len(rows),))
        self.projection_ = Projection.fit(rows, dimensions=self.n_axes)
        inputs = self.projection_.add_intercept(rows)
        ridge = self.penalty * np.eye(inputs.shape[1])
        ridge[-1, -1] = 1e-9
        self.weights_ = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ (large - small))
        return self

    def predict_gap(self, X: ArrayLike) -> Vector:
        """Give the predicted q(small) - q(large) of prompts ``X``: (n,), in [-1, 1]."""
        check_is_fitted(self, "weights_")
        rows = check_embeddings(np.asarray(X, dtype=np.float32), len(self.projection_.mean))
        return np.clip(self.projection_.add_intercept(rows) @ self.weights_, -1.0, 1.0)


def calibrate_drop(
    gaps: ArrayLike, small_errors: ArrayLike, large_errors: ArrayLike, *, tolerated_drop: float
) -> float:
    """Find the t for which ``gaps >= -t`` sends the most prompts to the small LLM within a tolerated drop.

    Parameters: predicted ``gaps`` (n,), and both LLMs' errors (n,) on the same prompts, which the
    predictor was not fitted on. The drop is in mean quality over all n prompts against the large LLM
    alone. Prompts with equal gaps go together. Where no prompt may go to the small LLM, t is minus
    infinity.
    """
    gaps_ = np.asarray(gaps, dtype=np.float64)
    if gaps_.ndim != 1 or gaps_.size == 0 or not np.all(np.isfinite(gaps_)):
        raise InvalidInputError("gaps", "one finite gap per prompt is needed, of at least one prompt")
    if not tolerated_drop >= 0:
        raise InvalidInputError("tolerated_drop", f"at least 0, not {tolerated_drop!r}")
    small = as_errors("small_errors", small_errors, shape=gaps_.shape)
    large = as_errors("large_errors", large_errors, shape=gaps_.shape)
    order = np.argsort(-gaps_, kind="stable")
    drops = np.cumsum((small - large)[order]) / gaps_.size
    ends = np.append(gaps_[order][1:] != gaps_[order][:-1], True)
    within = np.flatnonzero(ends & (drops <= tolerated_drop + 1e-12))
    return float(-gaps_[order][within[-1]]) if within.size else -np.inf


def choose_small(gaps: Vector, threshold: float) -> NDArray[np.bool_]:
    """Tell for each prompt whether the small LLM answers: its predicted gap is at least ``-threshold``."""
    return np.asarray(gaps >= -threshold)
