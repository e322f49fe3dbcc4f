"""Which LLMs are unseen and which prompts are labelled, trial by trial, the same in every implementation.

LLM names sorted; ``rng = default_rng(seed)``; per trial ``rng.permutation(H)`` gives the unseen LLMs (its
first third, sorted), then ``rng.permutation(n_val)`` the labelled prompts (its first L).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError

#: A share this close to a third is a third.
_NEAR_A_THIRD = 0.005
_FEWEST_UNSEEN = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One draw: which LLMs are unseen, and in which order val prompts are labelled."""

    number: int
    #: Columns, ascending.
    unseen: NDArray[np.int64]
    known: NDArray[np.int64]
    #: A permutation of the val prompts' positions; L labels are its first L.
    label_order: NDArray[np.int64]


def count_unseen(n_llms: int, share: float) -> int:
    """Return how many LLMs are unseen: ``max(2, floor(share * n_llms))``; .33 and the like mean a third."""
    if not 0.0 < share < 1.0:
        raise InvalidInputError("unseen", f"must be a share between 0 and 1, not {share}")
    count = n_llms // 3 if abs(share - 1 / 3) <= _NEAR_A_THIRD else int(share * n_llms + 1e-9)
    return max(_FEWEST_UNSEEN, count)


def draw_trials(n_llms: int, n_val: int, *, unseen: float = 1 / 3, trials: int, seed: int) -> list[Trial]:
    """Draw the trials; at least one LLM stays known."""
    count = count_unseen(n_llms, unseen)
    if count >= n_llms:
        raise InvalidInputError("unseen", f"{count} of {n_llms} LLMs unseen leaves none known")
    if trials < 1:
        raise InvalidInputError("trials", "must be at least 1")
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(trials):
        pool = np.sort(rng.permutation(n_llms)[:count])
        known = np.setdiff1d(np.arange(n_llms), pool)
        drawn.append(Trial(number=number, unseen=pool, known=known, label_order=rng.permutation(n_val)))
    return drawn
