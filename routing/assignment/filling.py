"""Whole prompts under a budget alone: start below it, then buy what gains most per USD while it fits."""

import numpy as np
from numpy.typing import NDArray

from routing.assignment.duals import reduce_lines
from routing.assignment.problem import Lines, Matrix, Prices

#: Passes over the purchases; a line that was upgraded may be upgraded again in the next.
_PASSES = 4


def fill_budget(lines: Lines, budget_usd: float, prices: Prices) -> NDArray[np.int64]:
    """Give counts, shape (G, H), that cost at most ``budget_usd``, from a lambda that spends too little.

    Each line starts with the cheapest of its best choices at lambda; a line of several prompts may be split.
    """
    values = reduce_lines(lines, prices).values
    best = values == values.max(axis=1, keepdims=True)
    start = np.where(best, lines.costs, np.inf).argmin(axis=1)
    rows = np.arange(len(start))
    counts = np.zeros(lines.errors.shape, dtype=np.int64)
    counts[rows, start] = lines.sizes
    slack = budget_usd - _spent(lines, counts)
    if slack < 0:
        counts[:] = 0
        cheapest = np.where(lines.open, lines.costs, np.inf).argmin(axis=1)
        counts[rows, cheapest] = lines.sizes
        start, slack = cheapest, budget_usd - _spent(lines, counts)
    for _ in range(_PASSES):
        bought = _buy(lines, counts, start, slack)
        if not bought:
            break
        start = np.where(counts[rows, start] == lines.sizes, start, counts.argmax(axis=1))
        slack = budget_usd - _spent(lines, counts)
    return counts


def _buy(lines: Lines, counts: NDArray[np.int64], held: NDArray[np.int64], slack: float) -> bool:
    """Upgrade lines, best gain per USD first, in place; each at most once. Tells whether any was."""
    rows = np.arange(len(held))
    gains = lines.errors[rows, held][:, None] - lines.errors
    extras = lines.costs - lines.costs[rows, held][:, None]
    moved = counts[rows, held]
    possible = lines.open & (gains > 0) & (extras <= slack) & (moved > 0)[:, None]
    line, llm = np.nonzero(possible)
    if len(line) == 0:
        return False
    gain, extra = gains[line, llm], extras[line, llm]
    order = np.lexsort((llm, line, -gain, -_ratio(gain, extra)))
    touched: set[int] = set()
    for position in order:
        g, h, each = int(line[position]), int(llm[position]), float(extra[position])
        if g in touched or each > slack:
            continue
        number = int(moved[g]) if each <= 0 else min(int(moved[g]), int(slack // each))
        if number == 0:
            continue
        counts[g, held[g]] -= number
        counts[g, h] += number
        slack -= number * each
        touched.add(g)
    return bool(touched)


def _ratio(gain: Matrix, extra: Matrix) -> Matrix:
    ratio: Matrix = np.where(extra > 0, gain / np.where(extra > 0, extra, 1.0), np.inf)
    return ratio


def _spent(lines: Lines, counts: NDArray[np.int64]) -> float:
    return float((counts * lines.costs).sum())
