"""How many tokens an LLM bills for a prompt whose length was estimated before the call."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.costs.usage import Matrix
from routing.errors import InvalidInputError

#: Pseudo-replies of mean length that hold an LLM's ratio to the pool's, and the pool's to 1.
_STRENGTH = 20.0
#: No tokenizer is further off an estimate by bytes; what an endpoint says beyond it is not believed.
_LEAST, _GREATEST = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class InputCounts:
    """Sums over replies by LLM, (H,) each; those of disjoint replies add to those of all of them."""

    replies: Matrix
    #: Input tokens as they were estimated before the call, and as they were billed.
    estimated: Matrix
    billed: Matrix

    def __add__(self, other: "InputCounts") -> "InputCounts":
        return InputCounts(
            self.replies + other.replies, self.estimated + other.estimated, self.billed + other.billed
        )


def count_inputs(llms: NDArray[np.int64], estimated: Matrix, billed: Matrix, *, n_llms: int) -> InputCounts:
    """Sum up replies: ``llms`` (n,) columns, input tokens (n,) as estimated, above 0, and as billed.

    Raises ``InvalidInputError`` for shapes that differ and counts out of range or not finite.
    """
    n = len(llms)
    if estimated.shape != (n,) or not np.all(np.isfinite(estimated) & (estimated > 0)):
        raise InvalidInputError("estimated", f"must be {n} finite numbers above 0")
    if billed.shape != (n,) or not np.all(np.isfinite(billed) & (billed >= 0)):
        raise InvalidInputError("billed", f"must be {n} finite numbers of at least 0")
    if n and not (llms.min() >= 0 and llms.max() < n_llms):
        raise InvalidInputError("llms", f"must be in 0..{n_llms - 1}")

    def total(values: Matrix) -> Matrix:
        summed: Matrix = np.bincount(llms, values, n_llms).astype(np.float64)
        return summed

    return InputCounts(total(np.ones(n)), total(estimated), total(billed))


def fit_input_ratios(counts: InputCounts) -> Matrix:
    """Give billed over estimated input tokens per LLM, shape (H,), in .1..10.

    The ratio of the sums, so that USD come out right where long prompts are billed otherwise than short ones,
    held by 20 pseudo-replies to that of all LLMs, which 20 hold to 1. 1 where there is no reply at all.
    """
    replies = float(counts.replies.sum())
    if replies == 0:
        return np.ones_like(counts.estimated)
    held = _STRENGTH * float(counts.estimated.sum()) / replies
    pool = (float(counts.billed.sum()) + held) / (float(counts.estimated.sum()) + held)
    ratios: Matrix = np.clip((counts.billed + held * pool) / (counts.estimated + held), _LEAST, _GREATEST)
    return ratios
