"""A budget over recorded traffic, paced as routers pace it: on target, and the ceiling is not broken."""

import numpy as np
import pytest

from routing.policies import Candidates, Lagrangian, LoggedDraws
from workers.simulation.pacing import pace


def draw(n: int, seed: int) -> Candidates:
    """Three LLMs at 1 : 5 : 25, the dearer the better; hardly a call exceeds 1.9 times its cost."""
    rng = np.random.default_rng(seed)
    costs = 1e-4 * rng.lognormal(0, 0.4, (n, 1)) * [1, 5, 25]
    return Candidates(
        errors=np.clip(rng.normal([0.6, 0.4, 0.2], 0.1, (n, 3)), 0, 1),
        costs=costs,
        allowed=np.ones((n, 3), dtype=bool),
        names=("a", "b", "c"),
        ceilings=1.9 * costs,
    )


@pytest.mark.parametrize("dearer", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_a_budget_ends_on_its_target(share: float, dearer: float) -> None:
    """1,500 prompts of the dearest LLM's spend, where true costs scatter, and are off on average too."""
    candidates = draw(1_500, 8)
    scatter = np.random.default_rng(8).lognormal(-0.08, 0.4, candidates.costs.shape)
    paid = dearer * candidates.costs * scatter
    budget = share * float(paid[:, 2].sum())

    found = pace(candidates, paid, budget_usd=budget)

    assert 0.98 * budget <= found.spent_usd <= budget
    assert found.constrained
    assert (found.llms < 0).mean() < 0.01


def test_a_budget_that_is_too_small_is_spent_and_not_more() -> None:
    """A tenth of what the cheapest LLM costs: some prompts are served, all by it, the rest by nobody."""
    candidates = draw(600, 3)
    budget = 0.1 * float(candidates.costs[:, 0].sum())

    found = pace(candidates, candidates.costs, budget_usd=budget)

    assert 0.9 * budget <= found.spent_usd <= budget
    assert set(found.llms.tolist()) == {-1, 0}


def test_a_budget_that_is_large_enough_changes_nothing() -> None:
    """Every prompt gets the LLM of the least error."""
    candidates = draw(300, 4)
    best = Lagrangian(0.0).choose(candidates, rng=LoggedDraws(np.empty(0))).llms

    found = pace(candidates, candidates.costs, budget_usd=100.0)

    assert found.llms.tolist() == best.tolist()
    assert not found.constrained
