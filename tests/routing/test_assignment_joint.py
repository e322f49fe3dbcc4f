"""Joint assignment against brute force, HiGHS and hand: near the bound, within limits, or a clear no."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from routing.assignment import Assignment, Lines, Supplies, assign_greedily, assign_jointly
from routing.errors import InfeasibleError, InvalidInputError


def draw_lines(n: int, n_llms: int, seed: int) -> Lines:
    """Prompts of scattered length and difficulty; dearer LLMs err less on average, not always."""
    rng = np.random.default_rng(seed)
    errors = np.linspace(0.6, 0.2, n_llms) + rng.normal(0, 0.2, (n, 1)) + rng.normal(0, 0.1, (n, n_llms))
    costs = 1e-4 * np.geomspace(1, 40, n_llms) * rng.lognormal(0, 0.6, (n, 1))
    return Lines(
        errors=np.clip(errors, 0, 1),
        costs=costs * rng.lognormal(0, 0.1, (n, n_llms)),
        tokens=np.rint(rng.lognormal(5, 1, (n, n_llms))),
    )


def budget_between(lines: Lines, share: float) -> float:
    """A budget at this share of the way from the cheapest assignment to the dearest LLM alone."""
    least, most = lines.costs.min(axis=1).sum(), lines.costs[:, -1].sum()
    return float(least + share * (most - least))


def relaxed_optimum(lines: Lines, supplies: Supplies) -> float:
    """The linear relaxation, solved whole by HiGHS."""
    n, n_llms = lines.errors.shape
    rows, limits = [lines.costs.ravel() / lines.costs.mean()], [supplies.budget_usd / lines.costs.mean()]
    for held, uses in ((supplies.requests, np.ones_like(lines.errors)), (supplies.tokens, lines.tokens)):
        for column in range(n_llms if held is not None else 0):
            only = np.zeros_like(lines.errors)
            only[:, column] = uses[:, column]
            rows.append(only.ravel())
            limits.append(held[column])
    found = linprog(
        -(1 - lines.errors).ravel(),
        A_ub=np.array(rows),
        b_ub=limits,
        A_eq=np.kron(np.eye(n), np.ones(n_llms)),
        b_eq=np.ones(n),
        bounds=(0, 1),
    )
    return float(-found.fun)


def require_kept(lines: Lines, supplies: Supplies, found: Assignment) -> None:
    """Every line served, nothing exceeded, sums as stated."""
    assert np.array_equal(found.counts.sum(axis=1), lines.sizes)
    assert np.all(found.counts >= 0)
    assert np.all(found.counts[~lines.open] == 0)
    assert found.cost_usd <= supplies.budget_usd * (1 + 1e-12)
    if supplies.requests is not None:
        assert np.all(found.counts.sum(axis=0) <= supplies.requests)
    if supplies.tokens is not None:
        assert np.all((found.counts * lines.tokens).sum(axis=0) <= supplies.tokens * (1 + 1e-12))
    assert found.quality <= found.bound * (1 + 1e-9) + 1e-9


def test_by_hand() -> None:
    """Two prompts, 5 USD: the strong LLM at 4 goes where it gains .5, not .25; the weak one costs 1."""
    lines = Lines(errors=np.array([[0.5, 0.25], [0.5, 0.0]]), costs=np.array([[1.0, 4.0], [1.0, 4.0]]))

    found = assign_jointly(lines, Supplies(budget_usd=5.0))

    assert found.llms.tolist() == [0, 1]
    assert (found.cost_usd, found.quality) == (5.0, 1.5)
    assert found.gap == pytest.approx(0, abs=1e-9)


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    capacity=st.none() | st.integers(2, 5),
)
@settings(max_examples=60)
def test_small_batches_against_all_assignments(seed: int, share: float, capacity: int | None) -> None:
    """Over 5 prompts and 3 LLMs: never above a limit, never above the bound, and the true best within it."""
    lines = draw_lines(5, 3, seed)
    supplies = Supplies(
        budget_usd=budget_between(lines, share),
        requests=None if capacity is None else np.full(3, float(capacity)),
    )
    values = []
    for choice in itertools.product(range(3), repeat=5):
        cost = lines.costs[np.arange(5), choice].sum()
        crowded = capacity is not None and np.bincount(choice).max() > capacity
        if cost <= supplies.budget_usd * (1 + 1e-12) and not crowded:
            values.append((1 - lines.errors[np.arange(5), choice]).sum())
    if not values:
        with pytest.raises(InfeasibleError):
            assign_jointly(lines, supplies)
        return

    found = assign_jointly(lines, supplies)

    require_kept(lines, supplies, found)
    assert found.bound >= max(values) - 1e-7
    # One prompt of five may be rounded down.
    assert found.quality >= max(values) - 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_budget_bound_is_the_relaxed_optimum(share: float) -> None:
    """On 1,000 prompts the dual's bound is HiGHS's optimum to 1e-6, and whole prompts come within .1 %."""
    lines = draw_lines(1000, 12, 1)
    supplies = Supplies(budget_usd=budget_between(lines, share))

    found = assign_jointly(lines, supplies)

    require_kept(lines, supplies, found)
    assert found.bound == pytest.approx(relaxed_optimum(lines, supplies), rel=1e-6)
    assert found.gap <= 0.001


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_capacity_bound_is_the_relaxed_optimum(share: float) -> None:
    """With a budget, requests and tokens all scarce the bound is HiGHS's optimum to 1e-6 still."""
    lines = draw_lines(400, 6, 2)
    supplies = Supplies(
        budget_usd=budget_between(lines, share),
        requests=np.full(6, 80.0),
        tokens=np.full(6, 0.3 * lines.tokens.mean(axis=1).sum()),
    )

    found = assign_jointly(lines, supplies)

    require_kept(lines, supplies, found)
    assert found.bound == pytest.approx(relaxed_optimum(lines, supplies), rel=1e-6)
    assert found.gap <= 0.005


@pytest.mark.parametrize("column", range(5))
def test_budget_of_one_llm_is_at_least_as_good_as_that_llm(column: int) -> None:
    """With exactly what one LLM costs on the whole batch, the assignment predicts no less quality than it."""
    lines = draw_lines(300, 5, 3)

    found = assign_jointly(lines, Supplies(budget_usd=float(lines.costs[:, column].sum())))

    assert found.quality >= (1 - lines.errors[:, column]).sum() - 1e-9


def test_free_budget_takes_the_least_error() -> None:
    """Without limits each prompt gets its least predicted error, and the bound is met exactly."""
    lines = draw_lines(200, 7, 4)

    found = assign_jointly(lines, Supplies())

    assert np.array_equal(found.llms, lines.errors.argmin(axis=1))
    assert found.quality == pytest.approx(found.bound)
    assert found.prices.error_per_usd == 0


def test_groups_are_assigned_like_their_prompts() -> None:
    """Forty lines of 25 equal prompts are worth the same as 1,000 lines of one."""
    grouped = draw_lines(40, 6, 5)
    counts = np.full(40, 25)
    lines = Lines(errors=grouped.errors, costs=grouped.costs, counts=counts)
    single = Lines(errors=np.repeat(grouped.errors, 25, axis=0), costs=np.repeat(grouped.costs, 25, axis=0))
    supplies = Supplies(budget_usd=budget_between(single, 0.2), requests=np.full(6, 400.0))

    together, apart = assign_jointly(lines, supplies), assign_jointly(single, supplies)

    require_kept(lines, supplies, together)
    assert together.bound == pytest.approx(apart.bound, rel=1e-7)
    assert together.gap <= 0.001
    with pytest.raises(InvalidInputError, match="several LLMs"):
        _ = together.llms


def test_limits_of_each_line_hold() -> None:
    """A line goes only where its own limits let it."""
    lines = draw_lines(200, 5, 6)
    allowed = np.random.default_rng(0).random((200, 5)) < 0.4
    allowed[:, 2] = True
    limited = Lines(errors=lines.errors, costs=lines.costs, allowed=allowed)
    supplies = Supplies(budget_usd=float(lines.costs[:, 3].sum()))

    require_kept(limited, supplies, assign_jointly(limited, supplies))


@pytest.mark.parametrize(
    ("supplies", "short", "amount"),
    [
        (Supplies(budget_usd=2.5), {"budget_usd"}, 0.5),
        (Supplies(requests=np.array([1.0, 1.5])), {"requests"}, 1.0),
        # Two may go to the weak LLM, the third costs 4: 6 USD are needed.
        (Supplies(budget_usd=5.0, requests=np.array([2.0, 9.0])), {"budget_usd"}, 1.0),
        # 30 tokens each: there is room for one prompt at either LLM, and none for the third.
        (Supplies(tokens=np.array([30.0, 30.0])), {"tokens of weak", "tokens of strong"}, 30.0),
    ],
)
def test_shortage_is_named_with_its_amount(supplies: Supplies, short: set[str], amount: float) -> None:
    """Three prompts at 1 or 4 USD and 30 tokens: what cannot be done says what is missing."""
    lines = Lines(
        errors=np.tile([0.5, 0.25], (3, 1)), costs=np.tile([1.0, 4.0], (3, 1)), tokens=np.full((3, 2), 30.0)
    )

    with pytest.raises(InfeasibleError) as caught:
        assign_jointly(lines, supplies, names=("weak", "strong"))

    found = caught.value.short
    assert set(found) <= short
    assert sum(found.values()) == pytest.approx(amount, rel=1e-6)


def test_line_without_any_llm_is_named() -> None:
    """Limits that leave a line nothing are told apart from a shortage."""
    lines = Lines(
        errors=np.full((3, 2), 0.5),
        costs=np.ones((3, 2)),
        allowed=np.array([[True, True], [False, False], [True, False]]),
    )

    with pytest.raises(InfeasibleError, match="LLMs allowed, for prompts: 1"):
        assign_jointly(lines, Supplies())


def test_nothing_to_assign() -> None:
    """No lines, or lines of no prompts, are assigned at no cost with no gap."""
    empty = Lines(errors=np.empty((0, 3)), costs=np.empty((0, 3)))
    idle = Lines(errors=np.full((2, 3), 0.5), costs=np.ones((2, 3)), counts=np.zeros(2, dtype=np.int64))
    supplies = Supplies(budget_usd=0.0, requests=np.zeros(3))

    for lines in (empty, idle):
        for limits in (Supplies(), Supplies(budget_usd=0.0), supplies):
            found = assign_jointly(lines, limits)
            assert (found.counts.sum(), found.cost_usd, found.gap) == (0, 0, 0)


def test_assignment_is_repeatable() -> None:
    """The same batch gives the same assignment."""
    lines = draw_lines(300, 6, 7)
    supplies = Supplies(budget_usd=budget_between(lines, 0.2), requests=np.full(6, 70.0))

    one, two = assign_jointly(lines, supplies), assign_jointly(lines, supplies)

    assert np.array_equal(one.counts, two.counts)


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("costs", {"costs": np.ones((2, 3))}),
        ("costs", {"costs": np.full((2, 2), -1.0)}),
        ("errors", {"errors": np.full((2, 2), np.nan)}),
        ("counts", {"counts": np.array([1, -1])}),
        ("allowed", {"allowed": np.ones((1, 2), dtype=bool)}),
    ],
)
def test_lines_that_make_no_sense_are_named(field: str, parts: dict[str, object]) -> None:
    """Shapes and ranges are checked before anything is solved."""
    with pytest.raises(InvalidInputError) as caught:
        Lines(**({"errors": np.full((2, 2), 0.5), "costs": np.ones((2, 2))} | parts))

    assert caught.value.field == field


def test_tokens_that_are_limited_must_be_known() -> None:
    """A token capacity without token counts is an error, not no limit."""
    lines = Lines(errors=np.full((2, 2), 0.5), costs=np.ones((2, 2)))

    with pytest.raises(InvalidInputError, match="tokens"):
        assign_jointly(lines, Supplies(tokens=np.ones(2)))
    with pytest.raises(InvalidInputError, match="requests"):
        assign_jointly(lines, Supplies(requests=np.ones(3)))


def test_greedy_by_hand() -> None:
    """5 USD in arrival order, best quality per USD: .5 / 1 beats .75 / 4 until the money is gone."""
    lines = Lines(errors=np.tile([0.5, 0.25], (7, 1)), costs=np.tile([1.0, 4.0], (7, 1)))

    found = assign_greedily(lines, Supplies(budget_usd=5.0))

    assert found.llms.tolist() == [0, 0, 0, 0, 0, -1, -1]
    assert (found.cost_usd, found.quality) == (5.0, 2.5)


def test_greedy_moves_on_when_an_llm_is_full() -> None:
    """One line of three prompts: two fit the best value, the third takes the next that fits."""
    lines = Lines(errors=np.array([[0.5, 0.25]]), costs=np.array([[1.0, 4.0]]), counts=np.array([3]))

    found = assign_greedily(lines, Supplies(requests=np.array([2.0, 9.0])))

    assert found.counts.tolist() == [[2, 1]]


def test_joint_beats_greedy() -> None:
    """On the same budget the joint assignment predicts more quality than the paper's greedy."""
    lines = draw_lines(500, 8, 8)
    supplies = Supplies(budget_usd=budget_between(lines, 0.3))

    assert assign_jointly(lines, supplies).quality > assign_greedily(lines, supplies).quality + 50


def test_twins_are_solved_as_one() -> None:
    """Ten thousand lines of three kinds, all ties, take no longer than three lines, and keep every limit."""
    rng = np.random.default_rng(9)
    kinds = draw_lines(3, 8, 9)
    kind = rng.integers(0, 3, 10_000)
    lines = Lines(errors=kinds.errors[kind], costs=kinds.costs[kind], counts=rng.integers(0, 3, 10_000))
    tenth = np.full(8, np.ceil(0.2 * lines.sizes.sum()))
    supplies = Supplies(budget_usd=float((lines.sizes * lines.costs.mean(axis=1)).sum()), requests=tenth)

    found = assign_jointly(lines, supplies)

    require_kept(lines, supplies, found)
    assert found.gap <= 0.001


def test_budget_just_above_the_cheapest_service_is_met() -> None:
    """Where capacities force dear LLMs, 1 % more than the cheapest service is enough, 1 % less is not."""
    lines = draw_lines(300, 5, 10)
    room = np.full(5, 61.0)
    scale = float(lines.costs.max())
    thrifty = assign_jointly(Lines(errors=lines.costs / scale, costs=lines.costs), Supplies(requests=room))
    least = thrifty.cost_usd

    enough = Supplies(budget_usd=1.01 * least, requests=room)
    require_kept(lines, enough, assign_jointly(lines, enough))
    with pytest.raises(InfeasibleError) as caught:
        assign_jointly(lines, Supplies(budget_usd=0.99 * least, requests=room))

    assert caught.value.short["budget_usd"] == pytest.approx(0.01 * least, rel=0.05)
