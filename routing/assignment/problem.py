"""What is to be assigned, what there is to spend, and what came out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """``G`` lines for ``H`` LLMs: single prompts, or groups of prompts that are alike.

    Raises ``InvalidInputError`` for shapes that differ, numbers that are not finite, or counts below 0.
    """

    #: Predicted error of each prompt of the line, shape (G, H).
    errors: Matrix
    #: Expected USD of each prompt of the line, shape (G, H), at least 0.
    costs: Matrix
    #: Prompts in each line, shape (G,); ``None``: one each.
    counts: NDArray[np.int64] | None = None
    #: What each line's limits leave, shape (G, H); ``None``: everything.
    allowed: NDArray[np.bool_] | None = None
    #: Tokens of each prompt of the line, shape (G, H); needed where tokens are limited.
    tokens: Matrix | None = None

    def __post_init__(self) -> None:
        shape = self.errors.shape
        if len(shape) != len(("lines", "LLMs")):
            raise InvalidInputError("errors", f"must have shape (G, H), not {shape}")
        for field in ("errors", "costs", "tokens"):
            values = getattr(self, field)
            if values is None:
                continue
            if values.shape != shape or not np.all(np.isfinite(values)) or np.any(values < 0):
                raise InvalidInputError(field, f"must be finite, at least 0 and of shape {shape}")
        if self.allowed is not None and self.allowed.shape != shape:
            raise InvalidInputError("allowed", f"must have shape {shape}, not {self.allowed.shape}")
        if self.counts is not None and (self.counts.shape != shape[:1] or np.any(self.counts < 0)):
            raise InvalidInputError("counts", f"must be at least 0 and of shape {shape[:1]}")

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Prompts in each line, shape (G,)."""
        return np.ones(len(self.errors), dtype=np.int64) if self.counts is None else self.counts

    @property
    def open(self) -> NDArray[np.bool_]:
        """What each line's limits leave, shape (G, H)."""
        return np.ones(self.errors.shape, dtype=np.bool_) if self.allowed is None else self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplies:
    """What the whole batch may use; ``inf`` and ``None``: no limit. ``InvalidInputError`` below 0 or NaN."""

    budget_usd: float = np.inf
    #: Prompts each LLM takes, shape (H,).
    requests: Matrix | None = None
    #: Tokens each LLM takes, shape (H,).
    tokens: Matrix | None = None

    def __post_init__(self) -> None:
        for field in ("budget_usd", "requests", "tokens"):
            values = getattr(self, field)
            if values is not None and not np.all(np.asarray(values) >= 0):
                raise InvalidInputError(field, "must be at least 0")

    def check(self, lines: Lines) -> None:
        """Raise ``InvalidInputError`` unless the supplies fit the lines."""
        n_llms = lines.errors.shape[1]
        for field in ("requests", "tokens"):
            values = getattr(self, field)
            if values is not None and values.shape != (n_llms,):
                raise InvalidInputError(field, f"must have shape ({n_llms},), not {values.shape}")
        if self.tokens is not None and lines.tokens is None:
            raise InvalidInputError("tokens", "are limited, so each line must say how many it has")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dual prices, at least 0: the predicted quality that one more unit of each supply would buy."""

    #: Lambda: error per USD of the budget.
    error_per_usd: float
    #: Error per prompt of each LLM's capacity, shape (H,).
    per_request: Matrix
    #: Error per token of each LLM's capacity, shape (H,).
    per_token: Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which LLM takes how many prompts of each line, and how far from the best possible that is."""

    #: Shape (G, H): prompts of the line that go to the LLM. Rows sum to the line's count, unless left out.
    counts: NDArray[np.int64]
    cost_usd: float
    #: Sum over prompts of 1 - predicted error; prompts left out add nothing.
    quality: float
    #: No assignment, whole or fractional, has a greater sum. ``inf`` where it was not computed.
    bound: float
    prices: Prices | None

    @property
    def gap(self) -> float:
        """How far the quality may be from the best possible, as a share of the bound."""
        if self.bound == 0:
            return 0.0
        return max(self.bound - self.quality, 0.0) / self.bound if np.isfinite(self.bound) else np.inf

    @property
    def llms(self) -> NDArray[np.int64]:
        """For lines of one prompt each: the column chosen, shape (G,), or -1 where it was left out."""
        if np.any(self.counts.sum(axis=1) > 1):
            raise InvalidInputError("counts", "a line of several prompts may have several LLMs")
        return np.where(self.counts.any(axis=1), self.counts.argmax(axis=1), -1).astype(np.int64)


def sum_up(
    lines: Lines, counts: NDArray[np.int64], *, bound: float = np.inf, prices: Prices | None = None
) -> Assignment:
    """Give the assignment that these counts, shape (G, H), make."""
    return Assignment(
        counts=counts,
        cost_usd=float((counts * lines.costs).sum()),
        quality=float((counts * (1 - lines.errors)).sum()),
        bound=bound,
        prices=prices,
    )
