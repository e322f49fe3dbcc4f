"""The ceiling that nothing breaks, and what is held against it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.policies import Candidates, Ceiling, Lagrangian, LoggedDraws, Weighted, reservable

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


@given(
    seed=st.integers(0, 1000),
    remaining=st.floats(0, 0.02),
    random=st.booleans(),
)
@settings(max_examples=100)
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


@pytest.mark.parametrize("draw", [0.1, 0.9])
def test_ceiling_leaves_no_chance_to_what_does_not_fit(draw: float) -> None:
    """Of two LLMs by lot one is beyond what is left: the other is certain, whatever is drawn."""
    offered = Candidates(
        errors=np.array([[0.1, 0.5]]),
        costs=np.array([[1.0, 4.0]]),
        allowed=np.ones((1, 2), dtype=bool),
        names=("a", "b"),
    )
    policy = Ceiling(policy=Weighted({"a": 1.0, "b": 1.0}), remaining_usd=2.0)

    choices = policy.choose(offered, rng=LoggedDraws(np.array([draw])))

    assert (choices.llms.tolist(), choices.propensities.tolist()) == ([0], [1.0])


def test_ceiling_that_is_far_changes_nothing() -> None:
    """With money enough the policy's own choices stand."""
    offered = stream(50, np.random.default_rng(3))

    free = Lagrangian(20.0).choose(offered, rng=RNG)
    under = Ceiling(policy=Lagrangian(20.0), remaining_usd=1e6).choose(offered, rng=RNG)

    assert np.array_equal(free.llms, under.llms)


def test_what_a_call_hardly_exceeds_is_held_against_what_is_left() -> None:
    """Expected at 1 and 4 but reaching 3 and 9: 5 USD pay for the small one once, and 1 more for nothing."""
    offered = Candidates(
        errors=np.tile([0.1, 0.5], (2, 1)),
        costs=np.tile([4.0, 1.0], (2, 1)),
        allowed=np.ones((2, 2), dtype=bool),
        names=("large", "small"),
        ceilings=np.tile([9.0, 3.0], (2, 1)),
    )

    choices = Ceiling(policy=Lagrangian(0.0), remaining_usd=5.0, by_ceiling=True).choose(offered, rng=RNG)

    assert choices.llms.tolist() == [1, -1]


def test_what_is_reserved_covers_whoever_may_stand_in() -> None:
    """``large`` may stand in for the first prompt, not for the second, whose limits removed it."""
    offered = Candidates(
        errors=np.zeros((2, 2)),
        costs=np.tile([4.0, 1.0], (2, 1)),
        allowed=np.array([[True, True], [False, True]]),
        names=("large", "small"),
        ceilings=np.tile([9.0, 3.0], (2, 1)),
    )

    assert reservable(offered).tolist() == [[9.0, 3.0], [9.0, 3.0]]
    assert reservable(offered, ("large", "gone")).tolist() == [[9.0, 9.0], [9.0, 3.0]]
