"""Forgetting: old labels weigh less with every new one, so that an LLM which changed is seen anew."""

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import InvalidInputError
from routing.quality.counts import ErrorCounts

#: About 333 labels are remembered: 1 / (1 - .997).
DEFAULT_RETENTION = 0.997
#: Labels after which one weighs half: .997 ** 231 = .4996.
DEFAULT_HALF_LIFE = 231.0


def retention_of(half_life: float) -> float:
    """Give what a label keeps at each newer one: half after ``half_life`` of them, above 0; 1 for ``inf``."""
    if not half_life > 0:
        raise InvalidInputError("half_life", f"must be above 0, not {half_life!r}")
    return float(0.5 ** (1.0 / half_life))


def forget_counts(
    counts: ErrorCounts, feedbacks: ArrayLike, *, retention: float = DEFAULT_RETENTION
) -> ErrorCounts:
    """Scale each LLM's counts by ``retention ** feedbacks``, before that many new labels are added.

    Parameters: ``feedbacks`` (H,) new labels of each LLM, not negative, weighted or not; ``retention`` in
    (0, 1], 1 forgets nothing. Both sums shrink alike, so rates estimated from them move towards the prior,
    not towards 0, and cells that are no longer asked open again. An LLM without new labels forgets
    nothing: only labels age labels, never the clock.
    """
    ages = np.asarray(feedbacks, dtype=np.float64)
    if ages.shape != counts.labels.shape[1:] or not np.all(np.isfinite(ages) & (ages >= 0)):
        raise InvalidInputError(
            "feedbacks", f"one number >= 0 per LLM is needed, {counts.labels.shape[1]} in all"
        )
    if not 0 < retention <= 1:
        raise InvalidInputError("retention", f"a share in (0, 1], not {retention!r}")
    kept = retention**ages
    return ErrorCounts(errors=counts.errors * kept, labels=counts.labels * kept)
