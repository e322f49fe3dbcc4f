"""Lines that are alike are one line: fewer to solve, and no ties between twins to break."""

import numpy as np
from numpy.typing import NDArray

from routing.assignment.problem import Lines


def merge_equal(lines: Lines) -> tuple[Lines, NDArray[np.int64]]:
    """Give the distinct lines, counts summed, and for each line, shape (G,), the one it went into."""
    parts = [lines.errors, lines.costs, lines.open.astype(np.float64)]
    if lines.tokens is not None:
        parts.append(lines.tokens)
    # Rows as opaque bytes compare fast; adding 0 makes -0 and 0 the same bytes.
    table = np.ascontiguousarray(np.concatenate(parts, axis=1) + 0.0)
    keys = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1]))).ravel()
    _, first, members = np.unique(keys, return_index=True, return_inverse=True)
    counts = np.bincount(members, lines.sizes, len(first)).astype(np.int64)
    merged = Lines(
        errors=lines.errors[first],
        costs=lines.costs[first],
        counts=counts,
        allowed=lines.open[first],
        tokens=None if lines.tokens is None else lines.tokens[first],
    )
    return merged, members.astype(np.int64)


def split_equal(
    counts: NDArray[np.int64], members: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Deal the merged lines' counts, (M, H), back to the lines: (G, H), in the order of lines and LLMs."""
    dealt = np.zeros((len(members), counts.shape[1]), dtype=np.int64)
    order = np.argsort(members, kind="stable")
    # Prompts of a merged line stand in a row; a line takes those from its begin to its end, an LLM likewise.
    ends = np.cumsum(sizes[order])
    before = np.concatenate([[0], np.cumsum(counts.sum(axis=1))])[members[order]]
    begins = ends - sizes[order] - before
    upper = np.cumsum(counts, axis=1)[members[order]]
    lower = upper - counts[members[order]]
    overlap = np.minimum(upper, (ends - before)[:, None]) - np.maximum(lower, begins[:, None])
    dealt[order] = np.maximum(overlap, 0)
    return dealt
