"""What replies said of their tokens, as sums that add up: the state from which lengths are learned."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over replies by hard cell and LLM, (C, H) each; y = log(1 + output), z = log(1 + input).

    Usages of disjoint replies add to the usage of all of them, in any order but for rounding.
    """

    replies: Matrix
    #: Sums of y, y squared, z, z squared and y z.
    y: Matrix
    yy: Matrix
    z: Matrix
    zz: Matrix
    yz: Matrix
    #: Sum of output tokens themselves.
    tokens: Matrix

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.replies + other.replies,
            self.y + other.y,
            self.yy + other.yy,
            self.z + other.z,
            self.zz + other.zz,
            self.yz + other.yz,
            self.tokens + other.tokens,
        )


def count_usage(
    cells: NDArray[np.int32],
    llms: NDArray[np.int64],
    input_tokens: Matrix,
    output_tokens: Matrix,
    *,
    n_cells: int,
    n_llms: int,
) -> Usage:
    """Sum up replies: ``cells`` (n, R) of their prompts, ``llms`` (n,) columns, tokens (n,) as billed.

    Raises ``InvalidInputError`` for shapes that differ and counts that are negative or not finite.
    """
    n = len(cells)
    for name, values in (("llms", llms), ("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if values.shape != (n,) or not np.all(np.isfinite(values)) or np.any(values < 0):
            raise InvalidInputError(name, f"must be {n} finite numbers of at least 0")
    where = (cells.astype(np.int64) * n_llms + llms[:, None]).ravel()
    y, z = np.log1p(output_tokens), np.log1p(input_tokens)

    def total(values: Matrix) -> Matrix:
        each = np.repeat(values, cells.shape[1])
        summed: Matrix = np.bincount(where, each, n_cells * n_llms).astype(np.float64)
        return summed.reshape(n_cells, n_llms)

    return Usage(
        total(np.ones(n)), total(y), total(y * y), total(z), total(z * z), total(y * z), total(output_tokens)
    )
