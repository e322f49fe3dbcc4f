"""The built-in task set keeps what the demo promises, with error rates learned from 400 labels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from routing.quality.counts import count_errors
from routing.quality.shrinkage import shrink_error_rates
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.families import FAMILIES

LABELS, TRAFFIC = 400, 2_000
#: USD that one error is worth: lambda = 60 errors per USD, in the middle of the range that works.
ERROR_PER_USD = 60.0
NAMES = sorted(FAMILIES)


def learn_rates(source: BuiltinSource) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shrunk error rates (families, LLMs) and mean costs (families, LLMs) from the labelled prompts."""
    prompts = source.prompts("label", LABELS)
    truth = source.truth([prompt.prompt_id for prompt in prompts])
    cells = np.array([NAMES.index(prompt.family) for prompt in prompts])
    n_llms = len(source.llms)
    counts = count_errors(
        np.repeat(cells, n_llms)[:, None],
        np.tile(np.arange(n_llms), LABELS),
        (1 - truth.scores).ravel(),
        n_cells=len(NAMES),
        n_llms=n_llms,
    )
    rates = shrink_error_rates(counts.errors, counts.labels, sizes=(len(NAMES),))
    costs = np.stack([truth.costs_usd[cells == cell].mean(axis=0) for cell in range(len(NAMES))])
    return rates, costs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_family_clusters_reach_the_best_llm_for_less(seed: int) -> None:
    """Quality >= best single - .02 at <= 60 % of its cost; the late joiner gets traffic."""
    source = BuiltinSource(seed=seed)
    rates, costs = learn_rates(source)
    prompts = source.prompts("traffic", TRAFFIC)
    truth = source.truth([prompt.prompt_id for prompt in prompts])
    cells = np.array([NAMES.index(prompt.family) for prompt in prompts])
    late = [llm.name for llm in source.llms].index(source.late_llm)
    scores = (rates + ERROR_PER_USD * costs)[cells]
    joined = np.arange(TRAFFIC) >= TRAFFIC // 2
    scores[~joined, late] = np.inf
    chosen, rows = scores.argmin(axis=1), np.arange(TRAFFIC)
    quality, cost = truth.scores[rows, chosen].mean(), truth.costs_usd[rows, chosen].mean()
    best = int(truth.scores.mean(axis=0).argmax())
    best_quality, best_cost = truth.scores[:, best].mean(), truth.costs_usd[:, best].mean()

    assert quality >= best_quality - 0.02
    assert cost <= 0.6 * best_cost
    assert (chosen[joined] == late).mean() > 0.05
    assert truth.scores.max(axis=1).mean() > quality + 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_targets_leave_room(seed: int) -> None:
    """They hold for every lambda from 20 to 500: nobody has to tune the demo."""
    source = BuiltinSource(seed=seed)
    rates, costs = learn_rates(source)
    prompts = source.prompts("traffic", TRAFFIC)
    truth = source.truth([prompt.prompt_id for prompt in prompts])
    cells, rows = np.array([NAMES.index(prompt.family) for prompt in prompts]), np.arange(TRAFFIC)
    best = int(truth.scores.mean(axis=0).argmax())

    for error_per_usd in (20.0, 50.0, 100.0, 200.0, 500.0):
        chosen = (rates + error_per_usd * costs)[cells].argmin(axis=1)
        assert truth.scores[rows, chosen].mean() >= truth.scores[:, best].mean() - 0.02
        assert truth.costs_usd[rows, chosen].mean() <= 0.6 * truth.costs_usd[:, best].mean()
