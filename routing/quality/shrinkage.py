"""Error rates per cell, pulled towards their LLM's overall rate as far as the labels are few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from routing.quality.counts import Matrix, Vector, check_counts, slice_resolutions

#: Pseudo-labels of the overall rate in each cell, at least and at most.
MIN_STRENGTH, MAX_STRENGTH = 2.0, 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPrior:
    """What is expected of an LLM's overall error rate before any label of it."""

    #: Expected error rate, in [0, 1].
    mean: float
    #: Variance of that rate between LLMs; above 0.
    variance: float

    def rate(self, errors: float, labels: float) -> float:
        """Give the overall rate after ``labels`` labels with ``errors`` errors: (e + k0 p0) / (N + k0).

        k0 = p0 (1 - p0) / variance. Without labels it is the prior's mean.
        """
        if labels <= 0:
            return self.mean
        strength = self.mean * (1 - self.mean) / self.variance
        return (errors + strength * self.mean) / (labels + strength)


def fit_level_prior(errors: Matrix) -> LevelPrior:
    """Learn what to expect of an LLM's overall error rate from known LLMs' ``errors``, shape (n, S).

    Mean and variance of their levels, the variance times (1 + 3/S) and at least .005; one LLM is met
    half-way to .5 with variance .05; none gives .5 and .08.
    """
    n_prompts, n_llms = errors.shape
    if n_prompts == 0 or n_llms == 0:
        return LevelPrior(mean=0.5, variance=0.08)
    levels = errors.mean(axis=0)
    if n_llms == 1:
        return LevelPrior(mean=float(levels[0] + 0.5) / 2, variance=0.05)
    variance = max(0.005, float(levels.var()) * (1 + 3 / n_llms))
    return LevelPrior(mean=float(levels.mean()), variance=variance)


def shrink_error_rates(
    errors: ArrayLike,
    labels: ArrayLike,
    *,
    sizes: Sequence[int],
    strength: float | None = None,
    level: LevelPrior | None = None,
) -> Matrix:
    """Pull each cell's error rate towards its LLM's overall rate p: (e + kappa p) / (n + kappa).

    Parameters: ``errors``, ``labels`` of shape (n_cells, n_llms), sums of error in [0, 1] and of label
    weights; ``sizes`` the cells of each resolution, each shrunk by itself; ``strength`` the pseudo-labels
    kappa, estimated per LLM and resolution when omitted::

        tau2  = (sum n_k (e_k/n_k - p)^2 - (K-1) q) / (N - sum n_k^2/N - (K-1)), 0 where either is negative
        kappa = clip(q/tau2 - 1, 2, 200)

    Without ``level``, p = e/N and q = p (1 - p); an LLM without labels gets .5. With ``level``, p is that
    prior's rate after the labels, q = max(p (1 - p), .02), and an LLM with less than two labels gets p in
    every cell. A cell without labels gets p. Each column depends on its own labels alone, to the last bit.
    Source: empirical Bayes for a beta-binomial by moments (Efron & Morris 1975).
    """
    errors_, labels_ = check_counts(errors, labels, sizes)
    rates = np.empty_like(errors_)
    for llm in range(errors_.shape[1]):
        for cells in slice_resolutions(sizes):
            own_errors = np.ascontiguousarray(errors_[cells, llm])
            own_labels = np.ascontiguousarray(labels_[cells, llm])
            rates[cells, llm] = _shrink(own_errors, own_labels, strength, level)
    return np.clip(rates, 0.0, 1.0)


def _shrink(errors: Vector, labels: Vector, strength: float | None, level: LevelPrior | None) -> Vector:
    """Shrink one LLM's cells of one resolution."""
    total, wrong = float(labels.sum()), float(errors.sum())
    if level is not None:
        overall = level.rate(wrong, total)
        spread = max(overall * (1 - overall), 0.02)
    else:
        overall = wrong / total if total > 0 else 0.5
        spread = overall * (1 - overall)
    if total <= 0 or (level is not None and total < 2):  # noqa: PLR2004 - one label tells of no difference
        return np.full(len(labels), overall)
    kappa = _estimate_strength(errors, labels, overall, spread) if strength is None else strength
    pseudo = labels + kappa
    rates = np.full(len(labels), overall)
    np.divide(errors + kappa * overall, pseudo, out=rates, where=pseudo > 0)
    return rates


def _estimate_strength(errors: Vector, labels: Vector, overall: float, spread: float) -> float:
    """Estimate kappa by moments: how much of the cells' spread is more than counting noise."""
    total = float(labels.sum())
    seen = labels > 0
    between = float(np.sum((errors[seen] - labels[seen] * overall) ** 2 / labels[seen]))
    noise = (len(labels) - 1) * spread
    room = total - float(np.sum(labels**2)) / total - (len(labels) - 1)
    if room <= 0 or between <= noise:
        return MAX_STRENGTH
    return float(np.clip(spread * room / (between - noise) - 1, MIN_STRENGTH, MAX_STRENGTH))
