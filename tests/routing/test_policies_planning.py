"""Spending by plan: lambda is looked up, doubted as far as prompts turn out dearer, and ends on target."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.policies import (
    Candidates,
    Lagrangian,
    PlannedPacing,
    PlannedState,
    SpendingPlan,
    plan_spending,
)

#: Free at lambda 30, 2 USD a prompt at 0.
PLAN = SpendingPlan(lambdas=np.array([0.0, 10.0, 30.0]), mean_costs=np.array([2.0, 1.0, 0.0]))


def draw_prompts(n: int, seed: int) -> Candidates:
    """Three LLMs at 1 : 4 : 20, better the dearer on average, not on every prompt."""
    rng = np.random.default_rng(seed)
    return Candidates(
        errors=np.clip(rng.normal([0.5, 0.35, 0.25], 0.15, (n, 3)), 0, 1),
        costs=1e-4 * rng.lognormal(0, 0.5, (n, 1)) * [1, 4, 20],
        allowed=np.ones((n, 3), dtype=bool),
        names=("a", "b", "c"),
    )


@pytest.mark.parametrize(
    ("target", "expected"), [(3.0, 0.0), (2.0, 0.0), (1.5, 5.0), (1.0, 10.0), (0.25, 25.0), (0.0, 30.0)]
)
def test_lambda_is_looked_up_in_proportion(target: float, expected: float) -> None:
    """Half-way between 2 and 1 USD is half-way between 0 and 10; a quarter USD is three quarters to 30."""
    assert PLAN.error_per_usd(target) == pytest.approx(expected)


def test_what_no_lambda_affords_is_infinite() -> None:
    """The cheapest LLMs still cost more."""
    dear = SpendingPlan(lambdas=np.array([0.0, 10.0]), mean_costs=np.array([2.0, 1.0]))

    assert dear.error_per_usd(0.5) == math.inf


def test_plan_costs_what_its_lambdas_do() -> None:
    """A planned target, sent to other prompts of the same kind at its lambda, costs what it says."""
    known, fresh = draw_prompts(3000, 0), draw_prompts(3000, 1)
    target = 5e-4

    llms = (
        Lagrangian(plan_spending(known).error_per_usd(target))
        .choose(fresh, rng=np.random.default_rng(0))
        .llms
    )

    assert fresh.costs[np.arange(3000), llms].mean() == pytest.approx(target, rel=0.05)


def test_dearer_prompts_lower_the_target_by_hand() -> None:
    """50 of 100 prompts cost 2 where 1 was planned: 0 of 100 USD are left; lambda is the greatest.

    After 20 at 1.5 (30 of 100 USD): 70 / 80 = .875 each, and prompts are (30 + 50) / (20 + 50) = 1.1429 times
    dearer than planned: .875 / 1.1429 = .7656 is looked up: lambda 10 + .2344 x 20 = 14.69.
    """
    pacing = PlannedPacing(plan=PLAN, budget_usd=100.0, prompts=100)
    nothing_left = PlannedState(spent_usd=100.0, prompts=50, planned_usd=50.0, paid_usd=100.0)
    some_left = PlannedState(spent_usd=30.0, prompts=20, planned_usd=20.0, paid_usd=30.0)

    assert pacing.error_per_usd(PlannedState()) == pytest.approx(10.0)
    assert pacing.error_per_usd(nothing_left) == pytest.approx(30.0)
    assert pacing.error_per_usd(some_left) == pytest.approx(14.6875)


@given(share=st.floats(0.1, 0.4), dearer=st.sampled_from([0.8, 1.0, 1.3]), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_budget_is_spent_even_where_the_plan_is_wrong(share: float, dearer: float, seed: int) -> None:
    """Of 600 prompts whose true costs are off by a factor from the planned ones, within 2 % of the budget."""
    known, fresh = draw_prompts(1000, 1000), draw_prompts(600, seed)
    budget = share * float(fresh.costs[:, 2].sum())
    pacing, state = PlannedPacing(plan=plan_spending(known), budget_usd=budget, prompts=600), PlannedState()

    for row in range(600):
        one = fresh.rows(slice(row, row + 1))
        chosen = Lagrangian(pacing.error_per_usd(state)).choose(one, rng=np.random.default_rng(0)).llms[0]
        state = pacing.advance(state, dearer * float(one.costs[0, chosen]))

    assert state.prompts == 600
    assert state.spent_usd == pytest.approx(budget, rel=0.02)


@pytest.mark.parametrize(
    ("lambdas", "costs"),
    [([], []), ([1.0], [1.0]), ([0.0, 0.0], [1.0, 1.0]), ([0.0, 1.0], [1.0, 2.0]), ([0.0], [-1.0])],
)
def test_impossible_plans_are_refused(lambdas: list[float], costs: list[float]) -> None:
    """Without 0 at its head, with lambdas that do not rise, or costs that do or are below 0."""
    with pytest.raises(InvalidInputError):
        SpendingPlan(lambdas=np.array(lambdas), mean_costs=np.array(costs))


@pytest.mark.parametrize(("budget", "prompts"), [(0.0, 10), (math.nan, 10), (1.0, 0)])
def test_impossible_budgets_are_refused(budget: float, prompts: int) -> None:
    """Nothing to spend, or nobody to spend it on."""
    with pytest.raises(InvalidInputError):
        PlannedPacing(plan=PLAN, budget_usd=budget, prompts=prompts)
