"""Choosing a pool, summing up a million prompts, and dealing the result out."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.assignment import Aggregates, choose_pool, deal_choices
from routing.errors import InvalidInputError


def test_pool_by_hand() -> None:
    """B is best alone (1.5); a adds .5 to it on the first prompt, c nothing."""
    errors = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.25]])

    pool = choose_pool(errors, np.zeros((2, 3)), size=3)

    assert pool.llms == (1, 0)
    assert pool.values == (1.5, 2.0)
    assert pool.bound == 2.0


def test_pool_looks_at_costs() -> None:
    """At lambda 1 a quality of .9 for .8 USD is worth less than .5 for .1."""
    errors, costs = np.array([[0.1, 0.5]]), np.array([[0.8, 0.1]])

    assert choose_pool(errors, costs, size=1).llms == (0,)
    assert choose_pool(errors, costs, size=1, error_per_usd=1.0).llms == (1,)


def test_pool_keeps_what_must_stay() -> None:
    """An LLM that belongs to the pool anyway is where the choice starts."""
    errors = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.25]])

    pool = choose_pool(errors, np.zeros((2, 3)), size=2, always=np.array([2]))

    assert pool.llms == (2, 0)
    assert pool.values == (1.25, 1.75)


@given(seed=st.integers(0, 10_000), size=st.integers(1, 4), error_per_usd=st.sampled_from([0.0, 0.5]))
@settings(max_examples=80)
def test_pool_keeps_its_guarantee(seed: int, size: int, error_per_usd: float) -> None:
    """Against every pool of that size: at least 1 - 1/e of the best gain, the best within the bound."""
    rng = np.random.default_rng(seed)
    errors, costs = rng.random((12, 6)), rng.random((12, 6))
    worth = 1 - errors - error_per_usd * costs
    least = worth.min(axis=1).sum()
    best = max(worth[:, list(pool)].max(axis=1).sum() for pool in itertools.combinations(range(6), size))

    chosen = choose_pool(errors, costs, size=size, error_per_usd=error_per_usd)

    assert chosen.values[-1] - least >= (1 - 1 / math.e) * (best - least) - 1e-9
    assert best <= chosen.bound + 1e-9
    assert len(chosen.llms) <= size


@pytest.mark.parametrize("size", [0, -1])
def test_pool_of_nothing_is_refused(size: int) -> None:
    """A pool has at least one LLM, out of at least one."""
    with pytest.raises(InvalidInputError, match="size"):
        choose_pool(np.ones((1, 1)), np.ones((1, 1)), size=size)
    with pytest.raises(InvalidInputError):
        choose_pool(np.empty((3, 0)), np.empty((3, 0)), size=1)


def test_blocks_add_up_to_the_whole() -> None:
    """Sums of two blocks are the sums of both together, and lines are their means."""
    rng = np.random.default_rng(0)
    groups, errors, costs = rng.integers(0, 4, 50), rng.random((50, 3)), rng.random((50, 3))
    first, second = slice(0, 20), slice(20, 50)

    whole = Aggregates.of(groups, errors, costs, n_groups=5)
    parts = Aggregates.of(groups[first], errors[first], costs[first], n_groups=5) + Aggregates.of(
        groups[second], errors[second], costs[second], n_groups=5
    )

    assert np.array_equal(whole.counts, parts.counts)
    assert parts.errors == pytest.approx(whole.errors)
    assert whole.lines().errors[2] == pytest.approx(errors[groups == 2].mean(axis=0))
    assert whole.lines().counts[4] == 0
    with pytest.raises(InvalidInputError, match="groups"):
        Aggregates.of(groups, errors, costs, n_groups=3)


def test_dealing_by_hand() -> None:
    """Group 0 has one a and two b, group 1 one b; a fourth prompt of group 0 is left over."""
    counts = np.array([[1, 2], [0, 1]])

    chosen = deal_choices(counts, np.array([0, 1, 0, 0, 0]))

    assert chosen.tolist() == [0, 1, 1, 1, -1]


def test_dealing_by_cost_saves_where_it_saves_most() -> None:
    """Of two prompts one may have b: the long one goes to the cheap a, the short one to b."""
    counts = np.array([[1, 1]])
    costs = np.array([[1.0, 2.0], [10.0, 20.0]])

    assert deal_choices(counts, np.array([0, 0]), costs).tolist() == [1, 0]


@given(seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_dealing_keeps_the_counts(seed: int) -> None:
    """Every group's counts come out exactly, with costs or without."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (6, 3))
    groups = rng.permutation(np.repeat(np.arange(6), counts.sum(axis=1)))

    for costs in (None, rng.random((len(groups), 3))):
        chosen = deal_choices(counts, groups, costs)
        dealt = np.zeros_like(counts)
        np.add.at(dealt, (groups, chosen), 1)
        assert np.array_equal(dealt, counts)
