"""A budget over recorded traffic: nothing is paid beyond it, whatever the answers turn out to cost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.policies import Candidates, SpendingPlan, plan_spending
from workers.simulation.pacing import pace


def draw(n: int, seed: int) -> Candidates:
    """Three LLMs at 1 : 5 : 25, the dearer the better."""
    rng = np.random.default_rng(seed)
    return Candidates(
        errors=np.clip(rng.normal([0.6, 0.4, 0.2], 0.1, (n, 3)), 0, 1),
        costs=1e-4 * rng.lognormal(0, 0.4, (n, 1)) * [1, 5, 25],
        allowed=np.ones((n, 3), dtype=bool),
        names=("a", "b", "c"),
    )


@given(seed=st.integers(0, 999), share=st.floats(0.02, 1.2), tail=st.floats(0.0, 3.0))
@settings(max_examples=25, deadline=None)
def test_nothing_is_paid_beyond_the_budget(seed: int, share: float, tail: float) -> None:
    """Even where answers are far longer than was thought possible: they are cut off."""
    candidates = draw(120, seed)
    rng = np.random.default_rng(seed)
    paid = candidates.costs * rng.lognormal(0, 1e-3 + tail, candidates.costs.shape)
    budget = share * float(candidates.costs[:, 2].sum())

    found = pace(candidates, 2 * candidates.costs, paid, budget_usd=budget, plan=plan_spending(draw(200, 1)))

    assert found.spent_usd <= budget * (1 + 1e-12)
    assert np.isclose(found.costs.sum(), found.spent_usd)
    assert not found.costs[found.llms < 0].any()
    whole = (found.llms >= 0) & ~found.cut
    assert np.array_equal(found.costs[whole], paid[whole, found.llms[whole]])


def test_cut_by_hand() -> None:
    """Prompts thought to cost 1 at most, and a budget of 2: 1 and 3 are paid as 1 and 1, then nothing."""
    candidates = Candidates(
        errors=np.zeros((3, 1)), costs=np.full((3, 1), 0.5), allowed=np.ones((3, 1), dtype=bool), names=("a",)
    )
    plan = SpendingPlan(lambdas=np.array([0.0]), mean_costs=np.array([0.5]))

    found = pace(candidates, np.ones((3, 1)), np.array([[1.0], [3.0], [1.0]]), budget_usd=2.0, plan=plan)

    assert found.llms.tolist() == [0, 0, -1]
    assert found.costs.tolist() == [1.0, 1.0, 0.0]
    assert found.cut.tolist() == [False, True, False]
