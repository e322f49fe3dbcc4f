"""Pacing by hand and over a stream; the ceiling that nothing breaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.policies import Candidates, Ceiling, Lagrangian, Pacing, Weighted, left_per_prompt

RNG = np.random.default_rng(0)


def stream(n: int, rng: np.random.Generator) -> Candidates:
    """Prompts of scattered length; the three LLMs cost 1 : 4 : 20 and err .6, .4, .2 on average."""
    length = rng.lognormal(0, 0.7, (n, 1))
    return Candidates(
        errors=np.clip(rng.normal([0.6, 0.4, 0.2], 0.15, (n, 3)), 0, 1),
        costs=1e-4 * length * [1, 4, 20],
        allowed=np.ones((n, 3), dtype=bool),
        names=("a", "b", "c"),
    )


def test_one_step_by_hand() -> None:
    """Target 2, a = .5, eta = .1 / 2: cost 6 makes the mean 4 and lambda .05; cost 0 brings back 2."""
    pacing = Pacing(target_usd=2.0, smoothing=0.5, step=0.1)

    first = pacing.advance(pacing.start(), [6.0])
    second = pacing.advance(first, [0.0])

    assert (first.mean_cost_usd, first.error_per_usd) == (4.0, pytest.approx(0.05))
    assert (second.mean_cost_usd, second.error_per_usd) == (2.0, pytest.approx(0.05))
    assert (second.spent_usd, second.prompts) == (6.0, 2)


def test_lambda_stays_within_its_bounds() -> None:
    """Free prompts bring lambda to 0 and no lower, dear ones to max_pressure / target and no higher."""
    pacing = Pacing(target_usd=1.0, step=10.0, max_pressure=50.0)

    assert pacing.advance(pacing.start(3.0), [0.0] * 500).error_per_usd == 0
    assert pacing.advance(pacing.start(), [100.0] * 500).error_per_usd == 50


def test_batches_do_not_matter_to_the_state() -> None:
    """The state after a stream is the same whether it came at once or one by one."""
    pacing, costs = Pacing(target_usd=1.0), RNG.exponential(1.0, 50)
    state = pacing.start(0.5)
    for cost in costs:
        state = pacing.advance(state, [cost])

    assert state == pacing.advance(pacing.start(0.5), costs)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_spending_ends_on_target(share: float) -> None:
    """3,000 prompts on 10, 30 and 70 % of the dearest LLM's spend end within 1 % of it, never above."""
    offered = stream(3000, np.random.default_rng(8))
    budget = share * offered.costs[:, 2].sum()
    pacing = Pacing(target_usd=budget / 3000)
    state = pacing.start(0.2 / pacing.target_usd)
    for begin in range(0, 3000, 10):
        rows = offered.rows(slice(begin, begin + 10))
        policy = Ceiling(policy=Lagrangian(state.error_per_usd), remaining_usd=budget - state.spent_usd)
        llms = policy.choose(rows, rng=RNG).llms
        spent = rows.costs[np.arange(10), llms][llms >= 0]
        target = left_per_prompt(budget, state.spent_usd + spent.sum(), 2990 - begin)
        state = pacing.retarget(max(target, 1e-12)).advance(state, spent)

    assert 0.99 * budget <= state.spent_usd <= budget * (1 + 1e-12)


@given(
    seed=st.integers(0, 1000),
    remaining=st.floats(0, 0.02),
    random=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_ceiling_is_never_broken(seed: int, remaining: float, random: bool) -> None:  # noqa: FBT001  # drawn
    """Whatever the policy wants, the chosen costs sum to no more than what is left."""
    offered = stream(30, np.random.default_rng(seed))
    wanted = Weighted({"a": 1.0, "c": 1.0}) if random else Lagrangian(10.0)
    choices = Ceiling(policy=wanted, remaining_usd=remaining).choose(offered, rng=np.random.default_rng(seed))

    picked = np.flatnonzero(choices.llms >= 0)

    assert offered.costs[picked, choices.llms[picked]].sum() <= remaining * (1 + 1e-12)
    assert np.all(choices.propensities[picked] > 0)


def test_ceiling_offers_what_still_fits() -> None:
    """5 USD left for prompts that want 4 each: 4, then only the one at 1 fits, then nothing."""
    offered = Candidates(
        errors=np.tile([0.1, 0.5], (3, 1)),
        costs=np.tile([4.0, 1.0], (3, 1)),
        allowed=np.ones((3, 2), dtype=bool),
        names=("large", "small"),
    )

    choices = Ceiling(policy=Lagrangian(0.0), remaining_usd=5.0).choose(offered, rng=RNG)

    assert choices.llms.tolist() == [0, 1, -1]


def test_ceiling_that_is_far_changes_nothing() -> None:
    """With money enough the policy's own choices stand."""
    offered = stream(50, np.random.default_rng(3))

    free = Lagrangian(20.0).choose(offered, rng=RNG)
    under = Ceiling(policy=Lagrangian(20.0), remaining_usd=1e6).choose(offered, rng=RNG)

    assert np.array_equal(free.llms, under.llms)


def test_what_is_left_per_prompt() -> None:
    """10 USD, 4 spent, 3 prompts to come: 2 each; overspent is 0; the last prompt may have it all."""
    assert left_per_prompt(10, 4, 3) == 2
    assert left_per_prompt(10, 12, 3) == 0
    assert left_per_prompt(10, 4, 0) == 6


@pytest.mark.parametrize(
    "settings",
    [{"target_usd": 0.0}, {"target_usd": 1.0, "smoothing": 0.0}, {"target_usd": 1.0, "step": -1.0}],
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    """A target, a smoothing and a step are above 0."""
    with pytest.raises(InvalidInputError):
        Pacing(**settings)
