"""Policies that name their LLMs: one alone, or a weak and a strong one with a threshold between them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, Choices, UniformSource, choose_surely


@dataclass(frozen=True, slots=True)
class Fixed:
    """Choose one LLM always; where the limits removed it, nothing (-1): no other stands in unasked.

    Raises ``UnknownLLMError`` when it chooses among candidates that do not include it.
    """

    llm: str

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:  # noqa: ARG002  # no draw
        """Give the choices, each with propensity 1."""
        column = candidates.column(self.llm)
        return choose_surely(np.where(candidates.allowed[:, column], column, -1).astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Choose ``strong`` where it is at least ``threshold`` less often wrong than ``weak``, else ``weak``.

    With ``per_usd`` the gain is divided by the extra cost first: error per USD, which ranks prompts by what
    an extra USD buys. (On MMLU-Pro, ranking by the gain alone fell below random: hard prompts also cost
    more.) Where strong costs no more, any gain at all is enough. Where the limits removed one of the two the
    other is chosen, and nothing where they removed both. Source: RouteLLM (arXiv 2406.18665), Hybrid LLM
    (arXiv 2404.14618).

    Raises ``InvalidInputError`` for a threshold that is NaN; ``UnknownLLMError`` as ``Fixed`` does.
    """

    weak: str
    strong: str
    threshold: float
    per_usd: bool = False

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise InvalidInputError("threshold", "must not be NaN")

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:  # noqa: ARG002  # no draw
        """Give the choices, each with propensity 1."""
        weak, strong = candidates.column(self.weak), candidates.column(self.strong)
        preferred = np.where(self.gains(candidates) >= self.threshold, strong, weak)
        other = weak + strong - preferred
        rows = np.arange(len(preferred))
        chosen = np.where(candidates.allowed[rows, preferred], preferred, other)
        return choose_surely(np.where(candidates.allowed[rows, chosen], chosen, -1).astype(np.int64))

    def gains(self, candidates: Candidates) -> NDArray[np.float64]:
        """Give what the threshold is held against, shape (n,)."""
        weak, strong = candidates.column(self.weak), candidates.column(self.strong)
        gains: NDArray[np.float64] = candidates.errors[:, weak] - candidates.errors[:, strong]
        if not self.per_usd:
            return gains
        extra = candidates.costs[:, strong] - candidates.costs[:, weak]
        free = np.where(gains > 0, np.inf, -np.inf)
        return np.where(extra > 0, gains / np.where(extra > 0, extra, 1.0), free)


def calibrate_threshold(gains: NDArray[np.float64], strong_share: float) -> float:
    """Give the least threshold that sends no more than ``strong_share`` of the prompts to the strong LLM.

    ``gains`` (n,) are ``Threshold.gains`` of representative prompts. Prompts that tie go the same way, to the
    weak one if they would exceed the share. A share of 0 gives ``inf``, a share of 1 ``-inf``.
    """
    if not 0 <= strong_share <= 1 or np.any(np.isnan(gains)):
        raise InvalidInputError("strong_share", f"must be in 0..1, and gains not NaN, not {strong_share!r}")
    falling = np.sort(gains)[::-1]
    # The product of a share and a count may fall short of a whole number by its rounding.
    most = math.floor(strong_share * len(gains) + 1e-9)
    if most == 0:
        return math.inf
    if most == len(gains):
        return -math.inf
    least_kept, first_left_out = float(falling[most - 1]), float(falling[most])
    return least_kept if least_kept > first_left_out else math.nextafter(first_left_out, math.inf)
