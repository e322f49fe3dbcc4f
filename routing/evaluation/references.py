"""Rows that stand beside every router: what one LLM, chance, or knowing the answers would give."""

from collections.abc import Callable, Mapping

import numpy as np

from routing.evaluation.curves import Matrix
from routing.evaluation.metrics import Pool

#: Points of a row: each prompt's score and cost, both (P, n), from recorded scores and costs (n, H).
Points = Callable[[Matrix, Matrix, Pool], tuple[Matrix, Matrix]]


def zero_errors(labelled: Matrix, n: int) -> Matrix:
    """Return (n, U): each LLM's mean error over its labelled prompts (L, U), the same for every prompt.

    ZeroRouter: its operating points are single LLMs; its hull mixes them.
    """
    return np.repeat(labelled.mean(axis=0, keepdims=True), n, axis=0)


def oracle_errors(scores: Matrix) -> Matrix:
    """Return the errors that were recorded: with recorded costs they make the per-prompt oracle."""
    return 1.0 - scores


def best_single(scores: Matrix, costs: Matrix, pool: Pool) -> tuple[Matrix, Matrix]:
    """Two points: the LLM with the best mean score on the test prompts, and the cheapest for less money."""
    columns = [pool.cheapest, pool.best]
    return scores[:, columns].T, costs[:, columns].T


def cheapest(scores: Matrix, costs: Matrix, pool: Pool) -> tuple[Matrix, Matrix]:
    """One point, the cheapest LLM."""
    return scores[:, [pool.cheapest]].T, costs[:, [pool.cheapest]].T


def random_llm(scores: Matrix, costs: Matrix, pool: Pool) -> tuple[Matrix, Matrix]:  # noqa: ARG001
    """One point, an LLM drawn evenly for each prompt, in expectation; its Area is its quality at any cost."""
    return scores.mean(axis=1)[None], costs.mean(axis=1)[None]


REFERENCE_POINTS: Mapping[str, Points] = {
    "best-single": best_single,
    "cheapest": cheapest,
    "random": random_llm,
}
