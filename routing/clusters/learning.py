"""Learn a LearnedMap: weights that predict which of the known LLMs answers wrongly."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.clusters.cluster_map import ClusterMap
from routing.clusters.learned import LearnedMap, soften_map
from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError

_Matrix = NDArray[np.float64]
_Outcomes = tuple[_Matrix, _Matrix]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How ``fit_learned_map`` descends."""

    #: Share of the prompts kept aside to decide when to stop.
    held_out: float = 0.1
    learning_rate: float = 0.02
    batch_size: int = 256
    #: Passes over the prompts, at most.
    epochs: int = 60
    #: Passes without a gain after which it stops.
    patience: int = 4


def fit_learned_map(
    cluster_map: ClusterMap,
    X: FloatMatrix,
    wrong: NDArray[np.float64],
    error_rates: NDArray[np.float64],
    *,
    rng: np.random.Generator,
    training: Training | None = None,
) -> LearnedMap:
    """Learn the weights, from ``soften_map`` on, by minibatch Adam; stop when held-out prompts stop gaining.

    ``X`` (n, d) are training prompts, ``wrong`` (n, S) in 0..1 how wrong each of S known LLMs answered (NaN:
    not asked), ``error_rates`` (K, S) these LLMs' rates per cell, which stay fixed. Minimised is the mean of
    ``-wrong log g - (1 - wrong) log(1 - g)`` with ``g = weights @ error_rates`` clipped to [1e-7, 1 - 1e-7].
    The map with the least held-out loss is given, the start included: it is never worse than the start there.
    With fewer than two prompts nothing can be held out, and the start is given.

    Raises ``InvalidInputError`` for shapes that do not fit or numbers outside 0..1.
    """
    training = training or Training()
    _check_outcomes(cluster_map, X, wrong, error_rates)
    start = soften_map(cluster_map, X)
    order = rng.permutation(len(X))
    n_held = math.ceil(training.held_out * len(X))
    if n_held == 0 or n_held >= len(X):
        return start
    theta = np.column_stack([start.directions, start.offsets]).astype(np.float64)
    inputs = np.column_stack([X, np.ones(len(X), dtype=np.float32)]).astype(np.float64)
    held, rest = order[:n_held], order[n_held:]
    best = _descend(
        theta,
        (inputs[rest], wrong[rest]),
        (inputs[held], wrong[held]),
        error_rates,
        rng=rng,
        training=training,
    )
    return LearnedMap(
        cluster_map=cluster_map,
        directions=best[:, :-1].astype(np.float32),
        offsets=best[:, -1].astype(np.float32),
    )


def log_loss(g: _Matrix, wrong: _Matrix) -> float:
    """Give the mean of ``-wrong log g - (1 - wrong) log(1 - g)`` over known outcomes; 0 without any."""
    known = ~np.isnan(wrong)
    if not known.any():
        return 0.0
    p, w = np.clip(g[known], 1e-7, 1 - 1e-7), wrong[known]
    return float(-(w * np.log(p) + (1 - w) * np.log1p(-p)).mean())


def _descend(
    theta: _Matrix,
    rest: _Outcomes,
    held: _Outcomes,
    psi: _Matrix,
    *,
    rng: np.random.Generator,
    training: Training,
) -> _Matrix:
    """Adam (Kingma & Ba 2015) with its usual decay rates; gives the ``theta`` best on held-out prompts."""
    first, second, steps, idle = np.zeros_like(theta), np.zeros_like(theta), 0, 0
    best, least_loss = theta.copy(), log_loss(_softmax(held[0] @ theta.T) @ psi, held[1])
    for _ in range(training.epochs):
        order = rng.permutation(len(rest[0]))
        for begin in range(0, len(order), training.batch_size):
            rows = order[begin : begin + training.batch_size]
            gradient = _gradient(theta, rest[0][rows], rest[1][rows], psi)
            steps += 1
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            step = (first / (1 - 0.9**steps)) / (np.sqrt(second / (1 - 0.999**steps)) + 1e-8)
            theta = theta - training.learning_rate * step
        loss = log_loss(_softmax(held[0] @ theta.T) @ psi, held[1])
        idle = 0 if loss < least_loss else idle + 1
        if loss < least_loss:
            best, least_loss = theta.copy(), loss
        if idle >= training.patience:
            break
    return best


def _gradient(theta: _Matrix, inputs: _Matrix, wrong: _Matrix, psi: _Matrix) -> _Matrix:
    """Give the gradient of ``log_loss`` with respect to ``theta``, shape (K, d + 1)."""
    known = ~np.isnan(wrong)
    phi = _softmax(inputs @ theta.T)
    g = np.clip(phi @ psi, 1e-7, 1 - 1e-7)
    by_g = np.where(known, (g - np.where(known, wrong, 0)) / (g * (1 - g)), 0) / max(1, known.sum())
    by_phi = by_g @ psi.T
    by_logit = phi * (by_phi - (phi * by_phi).sum(axis=1, keepdims=True))
    gradient: _Matrix = by_logit.T @ inputs
    return gradient


def _softmax(logits: _Matrix) -> _Matrix:
    raised: _Matrix = np.exp(logits - logits.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return raised


def _check_outcomes(cluster_map: ClusterMap, X: FloatMatrix, wrong: _Matrix, error_rates: _Matrix) -> None:
    if wrong.shape[:1] != X.shape[:1] or wrong.shape[1:] != error_rates.shape[1:]:
        raise InvalidInputError("wrong", f"must have shape (prompts, LLMs), not {wrong.shape}")
    if error_rates.shape[:1] != cluster_map.centroids.shape[:1]:
        raise InvalidInputError("error_rates", f"must have one row per cell, not {error_rates.shape}")
    for name, values in (("wrong", wrong[~np.isnan(wrong)]), ("error_rates", error_rates)):
        if not np.all((values >= 0) & (values <= 1)):
            raise InvalidInputError(name, "must be in 0..1")
