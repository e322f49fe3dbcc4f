"""The greedy assignment of the Routoo paper: first come, best value for money; kept as a baseline."""

import math

import numpy as np

from routing.assignment.problem import Assignment, Lines, Supplies, sum_up


def assign_greedily(lines: Lines, supplies: Supplies) -> Assignment:
    """Give each line in turn the LLM with the greatest quality per USD, as often as that still fits.

    An LLM that costs nothing comes before all others; ties go to the greater quality, then to the lower
    column. Early lines spend the budget and late ones may be left out, which is the method's weakness.
    Source: Routoo (arXiv 2401.13979), its cost-aware selector.
    """
    supplies.check(lines)
    n_llms = lines.errors.shape[1]
    quality = 1 - lines.errors
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(lines.costs > 0, quality / lines.costs, np.inf)
    order = np.lexsort((-quality, -ratio), axis=1)
    budget = supplies.budget_usd
    requests = np.full(n_llms, np.inf) if supplies.requests is None else supplies.requests.copy()
    tokens = np.full(n_llms, np.inf) if supplies.tokens is None else supplies.tokens.copy()
    needed = np.zeros_like(lines.errors) if lines.tokens is None else lines.tokens
    counts = np.zeros(lines.errors.shape, dtype=np.int64)
    left = lines.sizes.copy()
    for line, llm in zip(np.repeat(np.arange(len(order)), n_llms), order.ravel(), strict=True):
        if left[line] == 0 or not lines.open[line, llm]:
            continue
        fitting = (
            float(left[line]),
            float(requests[llm]),
            _times(float(tokens[llm]), float(needed[line, llm])),
            _times(budget, float(lines.costs[line, llm])),
        )
        taken = int(min(fitting))
        counts[line, llm] = taken
        left[line] -= taken
        budget -= taken * float(lines.costs[line, llm])
        requests[llm] -= taken
        tokens[llm] -= taken * needed[line, llm]
    return sum_up(lines, counts)


def _times(supply: float, each: float) -> float:
    """How often ``each`` fits into ``supply``."""
    return math.inf if each == 0 or math.isinf(supply) else max(supply, 0.0) // each
