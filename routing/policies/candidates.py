"""What a policy sees and gives: candidates in, one choice per prompt out, ties settled by one rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError, UnknownLLMError


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """``H`` LLMs for ``n`` prompts, in the order of their names, whatever the order of registration.

    Raises ``InvalidInputError`` for shapes that differ, numbers that are not finite, or names out of order.
    """

    #: Predicted probability of a wrong answer, shape (n, H).
    errors: NDArray[np.float64]
    #: Expected USD, shape (n, H).
    costs: NDArray[np.float64]
    #: What the limits leave, shape (n, H).
    allowed: NDArray[np.bool_]
    #: Strictly ascending.
    names: tuple[str, ...]
    #: Standard deviations of ``errors``, shape (n, H); ``None`` where they are not estimated.
    deviations: NDArray[np.float64] | None = None
    #: USD that a call hardly exceeds, shape (n, H); ``None`` where nothing is known of the spread.
    ceilings: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.errors), len(self.names))
        for field in ("errors", "costs", "deviations", "ceilings", "allowed"):
            values = getattr(self, field)
            if values is not None and values.shape != shape:
                raise InvalidInputError(field, f"must have shape {shape}, not {values.shape}")
            if values is not None and not np.all(np.isfinite(values)):
                raise InvalidInputError(field, "must be finite")
        if any(first >= second for first, second in pairwise(self.names)):
            raise InvalidInputError("names", "must be unique and in ascending order")

    def column(self, name: str) -> int:
        """Give the column of an LLM; ``UnknownLLMError`` when none has that name."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UnknownLLMError(name, self.names) from None

    def rows(self, chosen: slice | NDArray[np.intp]) -> "Candidates":
        """Give some of the prompts."""
        return Candidates(
            errors=self.errors[chosen],
            costs=self.costs[chosen],
            allowed=self.allowed[chosen],
            names=self.names,
            deviations=None if self.deviations is None else self.deviations[chosen],
            ceilings=None if self.ceilings is None else self.ceilings[chosen],
        )


@dataclass(frozen=True, slots=True)
class Choices:
    """One LLM per prompt, with what an unbiased replay needs."""

    #: Shape (n,): the column chosen, or -1 where nothing was allowed.
    llms: NDArray[np.int64]
    #: Shape (n,): the probability of that choice, in (0, 1]; 0 where nothing was allowed.
    propensities: NDArray[np.float64]
    #: Shape (n,): the uniform number that decided, or NaN where the policy drew none.
    draws: NDArray[np.float64]


class UniformSource(Protocol):
    """Where a policy draws: a ``numpy.random.Generator``, or the logged draws of a replay."""

    def random(self, size: int, /) -> NDArray[np.float64]:
        """Give ``size`` numbers in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class LoggedDraws:
    """The uniform numbers of decisions that were made, given out again for a replay."""

    #: Shape (n,): one per prompt of the batch that is decided again.
    values: NDArray[np.float64]

    def random(self, size: int, /) -> NDArray[np.float64]:
        """Give the logged numbers; refuse another batch size, and prompts for which none was drawn."""
        if self.values.shape != (size,) or np.any(np.isnan(self.values)):
            raise InvalidInputError("draws", f"must be {size} logged numbers, one per prompt")
        return self.values


class Policy(Protocol):
    """Chooses one LLM per prompt: a function of the candidates and at most one uniform number each."""

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Give the choices; -1 where nothing is allowed."""
        ...


@runtime_checkable
class Scored(Protocol):
    """A policy that minimises a score."""

    def scores(self, candidates: Candidates) -> NDArray[np.float64]:
        """Give what is minimised, shape (n, H)."""
        ...


def choose_surely(llms: NDArray[np.int64]) -> Choices:
    """Give the choices of a policy that leaves nothing to chance: propensity 1, no draw."""
    return Choices(llms, np.where(llms >= 0, 1.0, 0.0), np.full(len(llms), np.nan))


def least(keys: Sequence[NDArray[np.float64]], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Give, per row, the allowed column with the least first key; ties by the next, last by the lower column.

    ``keys`` have shape (n, H) and hold no NaN; infinities compare as numbers do. A row with nothing allowed
    gives
    -1. Later keys are read only in rows that tie, exactly: there is no tolerance, hence no order that
    matters.
    """
    if allowed.shape[1] == 0:
        return np.full(len(allowed), -1, dtype=np.int64)
    remaining = _keep_least(keys[0], allowed)
    for key in keys[1:]:
        tied = np.flatnonzero(np.count_nonzero(remaining, axis=1) > 1)
        if len(tied) == 0:
            break
        remaining[tied] = _keep_least(key[tied], remaining[tied])
    columns: NDArray[np.int64] = remaining.argmax(axis=1)
    return np.where(allowed.any(axis=1), columns, -1)


def _keep_least(key: NDArray[np.float64], remaining: NDArray[np.bool_]) -> NDArray[np.bool_]:
    smallest = np.where(remaining, key, np.inf).min(axis=1, keepdims=True)
    kept: NDArray[np.bool_] = (key == smallest) & remaining
    return kept
