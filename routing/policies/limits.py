"""Limits before score: which LLMs a caller's limits leave, and which limit removed each of the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from routing.llms import LLM
from routing.requests import Limits


class Limit(IntEnum):
    """A limit that can remove an LLM, in the order they are asked; the first that does is recorded."""

    NONE = 0
    CANDIDATES = 1
    EXCLUDED = 2
    CAPABILITIES = 3
    LANGUAGES = 4
    CONTEXT_LENGTH = 5
    DEADLINE = 6
    MAX_COST = 7
    MAX_ERROR = 8


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the limits leave of ``H`` LLMs for each of ``n`` prompts."""

    #: Shape (n, H), uint8: the ``Limit`` that removed the LLM, ``Limit.NONE`` where it stays.
    removed_by: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Shape (n, H): true where the LLM stays."""
        mask: NDArray[np.bool_] = self.removed_by == Limit.NONE
        return mask

    def reasons(self, row: int, names: Sequence[str]) -> dict[str, str]:
        """Give, for one prompt, each removed LLM's name with the limit that removed it."""
        return {
            name: Limit(code).name.lower()
            for name, code in zip(names, self.removed_by[row].tolist(), strict=True)
            if code != Limit.NONE
        }


def allowed_llms(
    limits: Sequence[Limits] | None,
    llms: Sequence[LLM],
    *,
    input_tokens: NDArray[np.float64],
    errors: NDArray[np.float64],
    ceilings: NDArray[np.float64],
    seconds: NDArray[np.float64] | None = None,
) -> Allowed:
    """Ask every limit of every prompt; ``limits=None`` asks the context length alone.

    ``input_tokens`` (n,) or, as each LLM counts them, (n, H); ``errors`` and ``ceilings`` (n, H). The
    ceilings are USD that calls hardly exceed, and what ``max_cost_usd`` is held against, as ``max_seconds``
    is held against ``seconds`` (n, H). Without them a deadline removes nothing, or everything where no time
    is left. A limit that is met exactly is kept: a ceiling equal to it stays. The context must hold the
    prompt and ``max_output_tokens`` (1 where not limited).
    """
    asked = [Limits()] * len(input_tokens) if limits is None else limits
    removed = np.zeros(errors.shape, dtype=np.uint8)
    _remove(removed, Limit.CANDIDATES, _by_value(asked, lambda wish: wish.candidates, _not_in(llms)))
    _remove(removed, Limit.EXCLUDED, _by_value(asked, lambda wish: wish.excluded or None, _in(llms)))
    _remove(
        removed, Limit.CAPABILITIES, _by_value(asked, lambda wish: wish.capabilities or None, _lacks(llms))
    )
    spoken = _by_value(asked, lambda wish: wish.languages or None, _speaks_not(llms))
    _remove(removed, Limit.LANGUAGES, spoken)
    answers = _numbers(asked, lambda wish: wish.max_output_tokens, missing=1.0)
    context = np.array([np.inf if llm.context_length is None else llm.context_length for llm in llms])
    filled = (input_tokens if input_tokens.ndim > 1 else input_tokens[:, None]) + answers[:, None]
    _remove(removed, Limit.CONTEXT_LENGTH, np.broadcast_to(filled > context, removed.shape))
    left = _numbers(asked, lambda wish: wish.max_seconds)[:, None]
    late = (left <= 0) if seconds is None else (seconds > left) | (left <= 0)
    _remove(removed, Limit.DEADLINE, np.broadcast_to(late, removed.shape))
    _remove(removed, Limit.MAX_COST, ceilings > _numbers(asked, lambda wish: wish.max_cost_usd)[:, None])
    _remove(removed, Limit.MAX_ERROR, errors > _numbers(asked, lambda wish: wish.max_error)[:, None])
    return Allowed(removed)


def _remove(removed: NDArray[np.uint8], limit: Limit, mask: NDArray[np.bool_] | None) -> None:
    if mask is not None:
        removed[mask & (removed == Limit.NONE)] = limit


def _numbers(
    limits: Sequence[Limits], field: Callable[[Limits], float | None], *, missing: float = np.inf
) -> NDArray[np.float64]:
    values = (field(wish) for wish in limits)
    return np.array([missing if value is None else value for value in values], dtype=np.float64)


def _by_value(
    limits: Sequence[Limits],
    field: Callable[[Limits], frozenset[str] | None],
    mask_of: Callable[[frozenset[str]], NDArray[np.bool_]],
) -> NDArray[np.bool_] | None:
    """Give the (n, H) mask of a limit that names things, each distinct value looked at once."""
    values = [field(wish) for wish in limits]
    if all(value is None for value in values):
        return None
    masks = cache(mask_of)
    nothing = np.zeros_like(masks(frozenset()))
    return np.stack([nothing if value is None else masks(value) for value in values])


def _in(llms: Sequence[LLM]) -> Callable[[frozenset[str]], NDArray[np.bool_]]:
    return lambda names: np.array([llm.name in names for llm in llms], dtype=np.bool_)


def _not_in(llms: Sequence[LLM]) -> Callable[[frozenset[str]], NDArray[np.bool_]]:
    return lambda names: np.array([llm.name not in names for llm in llms], dtype=np.bool_)


def _lacks(llms: Sequence[LLM]) -> Callable[[frozenset[str]], NDArray[np.bool_]]:
    return lambda wanted: np.array([not wanted <= llm.capabilities for llm in llms], dtype=np.bool_)


def _speaks_not(llms: Sequence[LLM]) -> Callable[[frozenset[str]], NDArray[np.bool_]]:
    lacks = _lacks(llms)
    return lambda languages: lacks(frozenset(f"language:{language}" for language in languages))
