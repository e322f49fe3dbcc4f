"""Spending by plan: lambda is looked up, doubted as far as prompts turn out dearer, and ends on target."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.policies import (
    MOST_ERROR_PER_USD,
    Candidates,
    Lagrangian,
    SpendingPlan,
    Standing,
    pace_spending,
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


def test_what_no_lambda_affords_gets_the_greatest() -> None:
    """The cheapest LLMs still cost more; the number is finite, for JSON."""
    dear = SpendingPlan(lambdas=np.array([0.0, 10.0]), mean_costs=np.array([2.0, 1.0]))

    assert dear.error_per_usd(0.5) == MOST_ERROR_PER_USD


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


def test_prompts_without_a_candidate_cost_nothing_and_say_nothing() -> None:
    """They are left out of the plan; with no other prompt every lambda costs 0."""
    known = draw_prompts(50, 0)
    nobody = replace(known, allowed=np.zeros_like(known.allowed))
    both = Candidates(
        errors=np.concatenate([known.errors, nobody.errors]),
        costs=np.concatenate([known.costs, nobody.costs]),
        allowed=np.concatenate([known.allowed, nobody.allowed]),
        names=known.names,
    )

    assert np.allclose(plan_spending(both).mean_costs, plan_spending(known).mean_costs)
    assert not plan_spending(nobody).mean_costs.any()


def test_dearer_prompts_lower_the_target_by_hand() -> None:
    """100 USD for 100 prompts: 1 each is lambda 10. After 50 at 2: nothing is left, lambda is the greatest.

    After 20 that cost 30 where 20 were expected, 80 to come: prompts are (30 + 50) / (20 + 50) = 1.1429 times
    dearer; 70 / 80 / 1.1429 = .7656 is looked up: lambda 10 + .2344 x 20 = 14.69. With 10 more in flight,
    70 to come: (70 - 1.1429 x 10) / 70 / 1.1429 = .7321: 10 + .2679 x 20 = 15.36.
    """
    spent = Standing(paid_usd=100.0, expected_usd=50.0, prompts=50)
    dearer = Standing(paid_usd=30.0, expected_usd=20.0, prompts=20)
    in_flight = Standing(paid_usd=30.0, expected_usd=20.0, pending_usd=10.0, prompts=30)

    found = [
        pace_spending(PLAN, standing, budget_usd=100.0, prompts_left=100.0 - standing.prompts)
        for standing in (Standing(), spent, dearer, in_flight)
    ]

    assert found == pytest.approx([10.0, 30.0, 14.6875, 15.3571], abs=1e-3)


@given(share=st.floats(0.1, 0.4), dearer=st.sampled_from([0.8, 1.0, 1.3]), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_budget_is_spent_even_where_expectations_are_wrong(share: float, dearer: float, seed: int) -> None:
    """Of 600 prompts whose true costs are off by a factor from the expected, within 2 % of the budget."""
    plan, fresh = plan_spending(draw_prompts(1000, 1000)), draw_prompts(600, seed)
    budget, standing = share * float(fresh.costs[:, 2].sum()), Standing()

    for row in range(600):
        one = fresh.rows(slice(row, row + 1))
        error_per_usd = pace_spending(plan, standing, budget_usd=budget, prompts_left=600 - row)
        column = Lagrangian(error_per_usd).choose(one, rng=np.random.default_rng(0)).llms[0]
        cost = float(one.costs[0, column])
        standing = Standing(
            paid_usd=standing.paid_usd + dearer * cost,
            expected_usd=standing.expected_usd + cost,
            prompts=row + 1,
        )

    assert standing.paid_usd == pytest.approx(budget, rel=0.02)


@pytest.mark.parametrize(
    ("lambdas", "costs"),
    [([], []), ([1.0], [1.0]), ([0.0, 0.0], [1.0, 1.0]), ([0.0, 1.0], [1.0, 2.0]), ([0.0], [-1.0])],
)
def test_impossible_plans_are_refused(lambdas: list[float], costs: list[float]) -> None:
    """Without 0 at its head, with lambdas that do not rise, or costs that do or are below 0."""
    with pytest.raises(InvalidInputError):
        SpendingPlan(lambdas=np.array(lambdas), mean_costs=np.array(costs))


@pytest.mark.parametrize("budget", [0.0, math.nan, math.inf])
def test_impossible_budgets_are_refused(budget: float) -> None:
    """There is nothing to spend."""
    with pytest.raises(InvalidInputError):
        pace_spending(PLAN, Standing(), budget_usd=budget, prompts_left=10)
