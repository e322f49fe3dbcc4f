"""Which LLMs to keep at all: a pool of at most M, chosen for what they add to each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.assignment.problem import Matrix
from routing.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of LLMs, in the order in which they were chosen."""

    #: Columns chosen.
    llms: tuple[int, ...]
    #: Value after each choice: the sum over prompts of the best ``1 - error - lambda * cost`` in the pool.
    values: tuple[float, ...]
    #: No pool of the same size has a greater value.
    bound: float


def choose_pool(
    errors: Matrix,
    costs: Matrix,
    *,
    size: int,
    error_per_usd: float = 0.0,
    always: NDArray[np.int64] | None = None,
) -> Pool:
    """Choose at most ``size`` LLMs whose best per prompt, ``1 - error - lambda * cost``, sums to the most.

    ``errors`` and ``costs`` have shape (n, H). The sum is monotone and submodular, so that choosing the
    greatest gain each time reaches at least 1 - 1/e of the best possible, both counted from the sum of each
    prompt's worst LLM (Nemhauser, Wolsey & Fisher 1978); ``bound`` is mostly much nearer: the value plus the
    ``size`` greatest gains that are left, of which none can exceed what it is now (Leskovec et al. 2007).
    Ties: the lower column. It stops early when nothing gains. ``always`` are columns that belong to the pool
    from the start. Source: Routoo (arXiv 2401.13979), pool construction.

    Raises ``InvalidInputError`` for a size below 1 or shapes that do not fit.
    """
    if size < 1 or errors.shape != costs.shape or 0 in errors.shape:
        raise InvalidInputError(
            "size", f"must be at least 1, and errors, costs alike and not empty, not {size}"
        )
    worth = 1 - errors - error_per_usd * costs
    least = worth.min(axis=1)
    pool: list[int] = [] if always is None else [int(column) for column in always]
    held = worth[:, pool].max(axis=1) if pool else least.copy()
    values = [float(held.sum())] if pool else []
    gains = np.maximum(worth - held[:, None], 0).sum(axis=0)
    bound = np.inf
    while len(pool) < min(size, worth.shape[1]):
        bound = min(
            bound, float(held.sum()) + _greatest(gains, size - (0 if always is None else len(always)))
        )
        best = int(np.argmax(gains))
        if gains[best] <= 0 and pool:
            break
        pool.append(best)
        held = np.maximum(held, worth[:, best])
        values.append(float(held.sum()))
        gains = np.maximum(worth - held[:, None], 0).sum(axis=0)
    bound = min(bound, float(held.sum()) + _greatest(gains, size - (0 if always is None else len(always))))
    return Pool(tuple(pool), tuple(values), bound)


def _greatest(gains: Matrix, count: int) -> float:
    return float(np.sort(gains)[::-1][: max(count, 0)].sum())
