"""Single numbers of public router leaderboards, so that ours can be put beside theirs."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from routing.errors import InvalidInputError

#: RouterArena's range of USD per 1,000 prompts.
ARENA_CHEAPEST_USD = 0.0044
ARENA_DEAREST_USD = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterEvalScores:
    """RouterEval's four numbers (arXiv 2503.10657)."""

    #: Mean score of the chosen LLMs.
    mu: float
    #: mu / score of a reference LLM outside the pool (their GPT-4); ``None`` without one.
    v_r: float | None
    #: mu / mean score of the best single LLM of the pool; above 1 the router beats it.
    v_b: float
    #: Mean over prompts of the entropy, in bits, of the router's distribution over LLMs: 0 for a router that
    #: is sure of every choice, log2 H for a uniform one.
    e_p: float


def router_eval(
    scores: ArrayLike, probabilities: ArrayLike, *, reference: float | None = None
) -> RouterEvalScores:
    """Score a router that picks LLM h for prompt i with probability ``probabilities[i, h]``.

    Parameters, both (n, H): recorded scores, and rows that sum to 1 (one-hot for a deterministic choice).
    The mean score is the expectation over the draw.
    """
    recorded, chosen = np.asarray(scores, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if recorded.shape != chosen.shape or recorded.ndim != 2 or not recorded.size:  # noqa: PLR2004
        raise InvalidInputError("probabilities", f"must have the scores' shape {recorded.shape}")
    if (chosen < 0).any() or not np.allclose(chosen.sum(axis=1), 1.0):
        raise InvalidInputError("probabilities", "each row must be at least 0 and sum to 1")
    best = float(recorded.mean(axis=0).max())
    if best <= 0.0 or (reference is not None and reference <= 0.0):
        raise InvalidInputError("scores", "the best single LLM and the reference must score above 0")
    mu = float((recorded * chosen).sum(axis=1).mean())
    bits = np.log2(chosen, out=np.zeros_like(chosen), where=chosen > 0)
    return RouterEvalScores(
        mu=mu,
        v_r=None if reference is None else mu / reference,
        v_b=mu / best,
        e_p=float(-(chosen * bits).sum(axis=1).mean()) + 0.0,
    )


def arena_score(accuracy: float, usd_per_1000: float, *, beta: float = 0.1) -> float:
    """RouterArena's score (arXiv 2510.00202), a weighted harmonic mean: S = (1 + b) A C / (b A + C).

    A is the accuracy in 0..1, C = (log2 200 - log2 c) / (log2 200 - log2 .0044), c in USD per 1,000
    prompts. Here C is held within 0..1: theirs leaves the range for costs outside [.0044, 200].
    """
    if not (0.0 <= accuracy <= 1.0 and math.isfinite(usd_per_1000) and usd_per_1000 >= 0.0):
        raise InvalidInputError("accuracy", "must be in 0..1, with a finite cost of at least 0 beside it")
    held = min(max(usd_per_1000, ARENA_CHEAPEST_USD), ARENA_DEAREST_USD)
    thrift = math.log2(ARENA_DEAREST_USD / held) / math.log2(ARENA_DEAREST_USD / ARENA_CHEAPEST_USD)
    if accuracy == 0.0 or thrift == 0.0:
        return 0.0
    return (1.0 + beta) * accuracy * thrift / (beta * accuracy + thrift)
