"""Policies that draw: logged odds are the true odds, limits hold, replays repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from routing.errors import InvalidInputError, UnknownLLMError
from routing.policies import (
    Candidates,
    Exploration,
    Fixed,
    Lagrangian,
    LoggedDraws,
    Mixture,
    Policy,
    Weighted,
    probabilities_of,
)

NAMES = ("a", "b", "c")
POLICIES: list[Policy] = [
    Weighted({"a": 1.0, "c": 3.0}),
    Mixture(first=Lagrangian(0.0), second=Lagrangian(np.inf), share=0.3),
    Exploration(policy=Lagrangian(0.5), share=0.1, band=0.2),
    Exploration(policy=Weighted({"a": 1.0, "b": 1.0}), share=0.5, band=1.0),
]


def candidates(n: int = 1, *, allowed: list[bool] | None = None) -> Candidates:
    """``n`` equal prompts: errors .5, .25, .125 at costs 1, 2, 4."""
    return Candidates(
        errors=np.tile([0.5, 0.25, 0.125], (n, 1)),
        costs=np.tile([1.0, 2.0, 4.0], (n, 1)),
        allowed=np.tile([True] * 3 if allowed is None else allowed, (n, 1)),
        names=NAMES,
    )


def test_shares_are_renormalised_over_what_is_allowed() -> None:
    """Shares 1 : 3 are .25 and .75; with c removed a has it all, with both removed nobody."""
    policy = Weighted({"c": 3.0, "a": 1.0})

    assert policy.probabilities(candidates()).tolist() == [[0.25, 0.0, 0.75]]
    assert policy.probabilities(candidates(allowed=[True, True, False])).tolist() == [[1.0, 0.0, 0.0]]
    assert policy.probabilities(candidates(allowed=[False, True, False])).tolist() == [[0.0, 0.0, 0.0]]


def test_mixture_by_hand() -> None:
    """Best error with .25, cheapest with .75."""
    policy = Mixture(first=Lagrangian(0.0), second=Lagrangian(np.inf), share=0.25)

    assert policy.probabilities(candidates()).tolist() == [[0.75, 0.0, 0.25]]


def test_exploration_by_hand() -> None:
    """The best by error is c; the band of .2 holds b and c: c has .8 + .1, b has .1, a nothing."""
    policy = Exploration(policy=Lagrangian(0.0), share=0.2, band=0.2)

    assert policy.probabilities(candidates())[0] == pytest.approx([0.0, 0.1, 0.9])


def test_where_the_policy_chooses_nothing_nothing_is_explored() -> None:
    """A prompt that may not have the one LLM of its policy goes nowhere, as it would without exploring."""
    policy = Exploration(policy=Fixed("a"), share=0.05, band=1.0)
    found = policy.choose(candidates(100, allowed=[False, True, True]), rng=np.random.default_rng(0))

    assert set(found.llms.tolist()) == {-1}
    assert set(found.propensities.tolist()) == {0.0}
    assert policy.probabilities(candidates())[0] == pytest.approx([0.95 + 0.05 / 3, 0.05 / 3, 0.05 / 3])


def test_exploration_has_a_price_cap() -> None:
    """What costs more than the cap is followed but never explored; an empty band is no exploration."""
    capped = Exploration(policy=Lagrangian(0.0), share=0.2, band=0.2, max_exploration_usd=2.0)
    nothing = Exploration(policy=Lagrangian(0.0), share=0.2, band=0.2, max_exploration_usd=0.5)

    assert capped.probabilities(candidates())[0] == pytest.approx([0.0, 0.2, 0.8])
    assert nothing.probabilities(candidates())[0].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("policy", POLICIES)
def test_logged_odds_are_the_true_odds(policy: Policy) -> None:
    """Over 40,000 draws each LLM is chosen as often as its propensity says, within 4 standard deviations."""
    offered = candidates(40_000)
    choices = policy.choose(offered, rng=np.random.default_rng(1))
    odds = probabilities_of(policy, candidates())[0]

    frequencies = np.bincount(choices.llms, minlength=3) / 40_000

    assert np.all(np.abs(frequencies - odds) <= 4 * np.sqrt(odds * (1 - odds) / 40_000))
    assert choices.propensities == pytest.approx(odds[choices.llms])


@given(
    errors=arrays.arrays(float, (8, 3), elements=st.floats(0, 1)),
    allowed=arrays.arrays(bool, (8, 3)),
    draws=arrays.arrays(float, 8, elements=st.floats(0, 1, exclude_max=True)),
    which=st.integers(0, len(POLICIES) - 1),
)
@settings(max_examples=200)
def test_draws_stay_within_limits_and_repeat(
    errors: np.ndarray, allowed: np.ndarray, draws: np.ndarray, which: int
) -> None:
    """No draw leaves what is allowed, choices have positive odds, and logged draws repeat them by row."""
    offered = Candidates(errors=errors, costs=errors[:, ::-1].copy(), allowed=allowed, names=NAMES)

    choices = POLICIES[which].choose(offered, rng=LoggedDraws(draws))

    for row, column in enumerate(choices.llms):
        one = slice(row, row + 1)
        again = POLICIES[which].choose(offered.rows(one), rng=LoggedDraws(choices.draws[one]))
        assert again.llms[0] == column
        assert again.propensities.tobytes() == choices.propensities[one].tobytes()
        if column >= 0:
            assert allowed[row, column]
            assert 0 < choices.propensities[row] <= 1
        else:
            assert choices.propensities[row] == 0


def test_greatest_draw_takes_the_last_llm_with_odds() -> None:
    """The float just below 1 does not fall off the end."""
    shares = Weighted({"a": 0.1, "b": 0.2, "c": 0.0})
    draw = LoggedDraws(np.array([np.nextafter(1.0, 0.0)]))

    assert shares.choose(candidates(), rng=draw).llms.tolist() == [1]


def test_replay_of_what_was_never_drawn_is_refused() -> None:
    """A deterministic decision logged no draw; a policy that wants one is told."""
    with pytest.raises(InvalidInputError, match="draws"):
        POLICIES[0].choose(candidates(), rng=LoggedDraws(np.array([np.nan])))


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": np.nan}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    """Shares are finite, at least 0 and not all 0."""
    with pytest.raises(InvalidInputError, match="shares"):
        Weighted(shares)


def test_share_of_an_unknown_llm_is_an_error() -> None:
    """A canary that is not registered is told, not dropped."""
    with pytest.raises(UnknownLLMError, match="'new'"):
        Weighted({"a": 0.9, "new": 0.1}).probabilities(candidates())
