"""What an evaluation runs on: recorded scores and costs of every LLM on every prompt, in three splits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.evaluation.curves import Matrix

Embeddings = NDArray[np.floating[Any]]

#: Some LLMs must be unseen and at least one known.
FEWEST_LLMS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedUsage:
    """Tokens of every call and what they were charged at."""

    #: (n, H), finite and at least 0.
    input_tokens: Matrix
    output_tokens: Matrix
    #: (2, H): USD per token of the prompt, and of the answer.
    prices: Matrix

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "prices"):
            values = getattr(self, name)
            expected = (2, self.input_tokens.shape[1]) if name == "prices" else self.input_tokens.shape
            if values.shape != expected or not ((values >= 0) & np.isfinite(values)).all():
                raise InvalidInputError(name, f"must be at least 0, finite and of shape {expected}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class RecordedOutcomes:
    """n prompts x H LLMs, complete: an incomplete set is cut to the prompts that every LLM has a score for.

    ``train`` has prompts for clusters and for the known LLMs, ``val`` those that may be labelled for unseen
    LLMs, ``test`` those that are routed.
    """

    #: Sorted by name, H >= 3.
    llms: tuple[str, ...]
    #: (n, d).
    embeddings: Embeddings
    #: (n, H), in 0..1.
    scores: Matrix
    #: (n, H), >= 0, in any one unit.
    costs: Matrix
    #: Rows of each split, in file order.
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    #: ``None`` where tokens or prices are not recorded for every call.
    usage: RecordedUsage | None = None

    def __post_init__(self) -> None:
        if len(self.llms) < FEWEST_LLMS:
            raise InvalidInputError(
                "llms", f"an evaluation on unseen LLMs needs {FEWEST_LLMS}, not {len(self.llms)}"
            )
        if list(self.llms) != sorted(set(self.llms)):
            raise InvalidInputError(
                "llms", "must be distinct and sorted by name: the draw depends on their order"
            )
        shape = (len(self.embeddings), len(self.llms))
        if self.scores.shape != shape or self.costs.shape != shape:
            raise InvalidInputError(
                "scores", f"scores {self.scores.shape} and costs {self.costs.shape}, not {shape}"
            )
        if not np.isfinite(self.embeddings).all():
            raise InvalidInputError("embeddings", "must be finite")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise InvalidInputError("scores", "must lie in 0..1, without gaps")
        if not ((self.costs >= 0) & np.isfinite(self.costs)).all():
            raise InvalidInputError("costs", "must be at least 0 and finite, without gaps")
        if self.usage is not None and self.usage.input_tokens.shape != shape:
            raise InvalidInputError("usage", f"{self.usage.input_tokens.shape} tokens, not {shape}")
        for split in ("train", "val", "test"):
            if not len(getattr(self, split)):
                raise InvalidInputError(split, "no prompt of this split has a score of every LLM")
