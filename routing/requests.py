"""What callers ask: the prompts of a batch, and the limits each caller sets on its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one caller allows. They hold before any score is looked at; ``None`` or empty: not limited.

    Names that no LLM has match nothing; whether that is an error is for the caller of the core to say.
    """

    #: Most USD the call may cost; held against what it hardly exceeds where answers' lengths are known to
    #: scatter.
    max_cost_usd: float | None = None
    #: Greatest predicted error, in 0..1.
    max_error: float | None = None
    #: Only these LLMs.
    candidates: frozenset[str] | None = None
    #: None of these LLMs.
    excluded: frozenset[str] = frozenset()
    #: Every one of these capabilities, whatever LLMs declare: ``tools``, ``vision``, ``json``, ...
    capabilities: frozenset[str] = frozenset()
    #: Every one of these languages; an LLM declares one as the capability ``language:NAME``, and an LLM that
    #: declares none is not taken to know any.
    languages: frozenset[str] = frozenset()
    #: Most tokens of the answer: room for them must be left in the context, and no more are expected.
    max_output_tokens: int | None = None
    #: Seconds that are left for the call; held against what it hardly exceeds. Where no latency has been
    #: learned it removes nothing, unless no time is left at all.
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_cost_usd", "max_error"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(name, f"must be finite and at least 0, not {value!r}")
        if self.max_error is not None and self.max_error > 1:
            raise InvalidInputError("max_error", f"is a probability, not {self.max_error!r}")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise InvalidInputError(
                "max_output_tokens", f"must be at least 1, not {self.max_output_tokens!r}"
            )
        if self.max_seconds is not None and math.isnan(self.max_seconds):
            raise InvalidInputError("max_seconds", "must not be NaN")

    def tightened(self, other: "Limits") -> "Limits":
        """Give what keeps these limits and the other ones too: of each the stricter, in either order."""
        return Limits(
            max_cost_usd=_lesser(self.max_cost_usd, other.max_cost_usd),
            max_error=_lesser(self.max_error, other.max_error),
            candidates=_common(self.candidates, other.candidates),
            excluded=self.excluded | other.excluded,
            capabilities=self.capabilities | other.capabilities,
            languages=self.languages | other.languages,
            max_output_tokens=_lesser(self.max_output_tokens, other.max_output_tokens),
            max_seconds=_lesser(self.max_seconds, other.max_seconds),
        )


Number = TypeVar("Number", int, float)


def _lesser(one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _common(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


#: What most prompts carry.
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """A batch of ``n`` prompts; ``InvalidInputError`` when lengths differ or a token count is negative."""

    #: Unit rows, shape (n, d).
    embeddings: FloatMatrix
    #: Tokens of each prompt, shape (n,).
    input_tokens: NDArray[np.float64]
    #: One per prompt; ``None``: nobody limits anything.
    limits: Sequence[Limits] | None = None

    def __post_init__(self) -> None:
        if len(self.embeddings.shape[1:]) != 1:
            raise InvalidInputError("embeddings", f"must have shape (n, d), not {self.embeddings.shape}")
        check_tokens(self.input_tokens, len(self.embeddings))
        check_limits(self.limits, len(self.embeddings))

    def __len__(self) -> int:
        return len(self.embeddings)


def check_tokens(input_tokens: NDArray[np.float64], n_prompts: int) -> None:
    """Refuse counts that are not ``n_prompts`` finite numbers of at least 0."""
    if np.shape(input_tokens) != (n_prompts,):
        raise InvalidInputError(
            "input_tokens", f"must have shape ({n_prompts},), not {np.shape(input_tokens)}"
        )
    if not np.all(np.isfinite(input_tokens)) or np.any(np.less(input_tokens, 0)):
        raise InvalidInputError("input_tokens", "must be finite and at least 0")


def check_limits(limits: Sequence[Limits] | None, n_prompts: int) -> None:
    """Refuse a number of limits that is not the number of prompts."""
    if limits is not None and len(limits) != n_prompts:
        raise InvalidInputError("limits", f"must be {n_prompts}, one per prompt, not {len(limits)}")
