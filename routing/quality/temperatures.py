"""How soft a map should be, learned from known LLMs: the temperature that foretells held-out outcomes."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from routing.clusters import ClusterMap
from routing.clusters.selection import CANDIDATE_TEMPERATURES
from routing.embedders import FloatMatrix
from routing.quality.counts import IntMatrix, Matrix, as_errors
from routing.quality.shrinkage import fit_level_prior, shrink_error_rates

#: Losses that differ by less differ in nothing but rounding.
_ROUNDING = 1e-9
#: Parts of the prompts; each is foretold by rates counted on the others.
_FOLDS = 5
#: Prompts of each part that are foretold, at most, evenly spread.
_FORETOLD = 400
#: The prompts may be those that the centroids were fitted on, which flatters the hard map: it is not tried.
_SOFT = tuple(value for value in CANDIDATE_TEMPERATURES if math.isfinite(value))


def fit_soft_temperature(cluster_map: ClusterMap, X: FloatMatrix, errors: ArrayLike) -> ClusterMap:
    """Give the soft map with the temperature that known LLMs' outcomes speak for.

    Parameters: ``X`` (n, d) prompts, ``errors`` (n, S) of S known LLMs in [0, 1], complete. Cross-fitted: the
    log loss of ``weights @ rates`` on a fifth of the prompts, with shrunk rates counted on the rest, five
    times. Of the temperatures within one standard error (over prompts, paired) of the least loss, the one
    nearest to the map's own wins, as a ratio, so that few outcomes move it little. With no known LLM, or
    fewer than two prompts per part, the map is given back as it is; a hard one always is.
    """
    wrong = as_errors("errors", errors, shape=(len(X), np.shape(errors)[-1]))
    own = cluster_map.temperature
    if wrong.shape[1] == 0 or len(wrong) < 2 * _FOLDS or not 0 < own < math.inf:
        return cluster_map
    tried = [cluster_map.with_temperature(value) for value in sorted({*_SOFT, own})]
    losses = _foretell(tried, X, wrong)
    excess = losses - losses[losses.mean(axis=1).argmin()]
    slack = excess.std(axis=1) / math.sqrt(excess.shape[1]) + _ROUNDING
    equals = [one for one, is_equal in zip(tried, excess.mean(axis=1) <= slack, strict=True) if is_equal]
    return min(equals, key=lambda one: abs(math.log(one.temperature / own)))


def _foretell(maps: Sequence[ClusterMap], X: FloatMatrix, wrong: Matrix) -> Matrix:
    """Give each map's log loss on each held-out prompt, mean over LLMs: shape (maps, prompts)."""
    cells, sizes = maps[0].cells(X), maps[0].sizes
    fold = np.arange(len(X)) % _FOLDS
    counts = np.array(
        [_count(cells[fold == part], wrong[fold == part], sum(sizes)) for part in range(_FOLDS)]
    )
    level = fit_level_prior(wrong)
    losses = []
    for part in range(_FOLDS):
        errors, labels = np.delete(counts, part, axis=0).sum(axis=0)
        rates = shrink_error_rates(errors, labels, sizes=sizes, level=level)
        held = np.flatnonzero(fold == part)
        held = held[:: math.ceil(len(held) / _FORETOLD)]
        losses.append([_log_losses(one.weights(X[held]) @ rates, wrong[held]) for one in maps])
    return np.concatenate(losses, axis=1)


def _count(cells: IntMatrix, wrong: Matrix, n_cells: int) -> Matrix:
    """Sum errors and labels by cell and LLM: shape (2, C, S)."""
    counts = np.zeros((2, n_cells, wrong.shape[1]))
    for column in cells.T:
        np.add.at(counts[0], column, wrong)
        counts[1] += np.bincount(column, minlength=n_cells)[:, None]
    return counts


def _log_losses(predicted: Matrix, wrong: Matrix) -> Matrix:
    p = np.clip(predicted, 1e-7, 1 - 1e-7)
    losses: Matrix = -(wrong * np.log(p) + (1 - wrong) * np.log1p(-p)).mean(axis=1)
    return losses
