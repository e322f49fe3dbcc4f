"""Routers between two LLMs, and the bandit: thresholds and values worked by hand."""

import math

import numpy as np
import pytest
from sklearn.base import clone

from routing.errors import InvalidInputError
from routing.quality.bandit import BanditState, PickLLM
from routing.quality.hybrid import HybridRouter, calibrate_drop, choose_small
from routing.quality.preference import PreferenceRouter, calibrate_share, choose_strong

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 4))
X /= np.linalg.norm(X, axis=1, keepdims=True)
#: The weak LLM fails where the first coordinate is positive; the strong one hardly ever fails.
WEAK = (X[:, 0] > 0).astype(float)
STRONG = (RNG.random(400) < 0.05).astype(float)


def test_alpha_sends_the_share_asked_for() -> None:
    """Of .9 .7 .5 .3 a share of 1/2 is P >= .7; 0 is never, 1 is always, and .49 is one prompt."""
    wins = np.array([0.3, 0.9, 0.5, 0.7])

    alphas = [calibrate_share(wins, share) for share in (0.0, 0.49, 0.5, 1.0)]

    assert alphas == [math.inf, 0.9, 0.7, 0.3]
    assert [int(choose_strong(wins, alpha).sum()) for alpha in alphas] == [0, 1, 2, 4]


def test_alpha_never_exceeds_the_share_where_prompts_tie() -> None:
    """Three ties above a share of 1/2 of four prompts would be too many: none goes."""
    wins = np.array([0.8, 0.8, 0.8, 0.1])

    assert not choose_strong(wins, calibrate_share(wins, 0.5)).any()
    assert choose_strong(wins, calibrate_share(wins, 0.75)).sum() == 3


def test_preference_router_finds_where_the_strong_llm_wins() -> None:
    """P(win) is high where only the weak LLM fails, and ranks prompts far better than chance."""
    router = PreferenceRouter(n_axes=4, penalty=0.1).fit(X, WEAK, STRONG)

    wins = router.predict_win(X)

    assert np.all((wins > 0) & (wins < 1))
    assert wins[X[:, 0] > 0.3].mean() > 0.8
    assert wins[X[:, 0] < -0.3].mean() < 0.2


def test_preference_ties_are_no_wins() -> None:
    """Where both are always right there is nothing to win, so the strong LLM is not worth its price."""
    router = PreferenceRouter(n_axes=4).fit(X, np.zeros(400), np.zeros(400))

    assert router.predict_win(X).max() < 0.1


def test_threshold_tolerates_the_drop_asked_for() -> None:
    """Four prompts by predicted gap: the small LLM is worse by 0, 0, 1, 1; each costs 1/4 of mean quality.

    No drop allows the first two (t = .1), a drop of .25 a third (t = .5), a drop of .5 all (t = .9).
    """
    gaps = np.array([0.0, -0.1, -0.5, -0.9])
    small, large = np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(4)

    thresholds = [calibrate_drop(gaps, small, large, tolerated_drop=drop) for drop in (0.0, 0.25, 0.5)]

    assert thresholds == [0.1, 0.5, 0.9]
    assert [int(choose_small(gaps, t).sum()) for t in thresholds] == [2, 3, 4]


def test_threshold_of_minus_infinity_where_nothing_may_be_lost() -> None:
    """If even the best prompt would lose too much, none goes to the small LLM."""
    threshold = calibrate_drop([0.1, 0.1], [1.0, 0.0], [0.0, 0.0], tolerated_drop=0.1)

    assert threshold == -math.inf
    assert not choose_small(np.array([0.1, 1.0]), threshold).any()


def test_hybrid_router_predicts_the_gap() -> None:
    """The gap q(small) - q(large) is near -1 where only the small LLM fails and near 0 elsewhere."""
    gaps = HybridRouter(n_axes=4, penalty=0.1).fit(X, WEAK, STRONG).predict_gap(X)

    assert gaps[X[:, 0] > 0.5].mean() < -0.7
    assert gaps[X[:, 0] < -0.5].mean() > -0.2
    assert np.all(np.abs(gaps) <= 1)


@pytest.mark.parametrize("kind", [PreferenceRouter, HybridRouter])
def test_binary_routers_refuse_what_they_cannot_use(kind: type[PreferenceRouter | HybridRouter]) -> None:
    """NaN among the errors, no prompts, or another length; and they clone."""
    with pytest.raises(InvalidInputError, match="NaN"):
        kind().fit(X, np.full(400, np.nan), STRONG)
    with pytest.raises(InvalidInputError):
        kind().fit(X[:0], [], [])
    with pytest.raises(InvalidInputError):
        kind().fit(X, WEAK[:3], STRONG)

    assert clone(kind(n_axes=3)).get_params() == kind(n_axes=3).get_params()


@pytest.mark.parametrize(
    ("wins", "share"), [([0.5], -0.1), ([0.5], 1.1), ([0.5], math.nan), ([], 0.5), ([math.nan], 0.5)]
)
def test_impossible_shares_are_refused(wins: list[float], share: float) -> None:
    """A share outside [0, 1], no predictions, or NaN."""
    with pytest.raises(InvalidInputError):
        calibrate_share(wins, share)


@pytest.mark.parametrize(("gaps", "drop"), [([0.1], -1.0), ([0.1], math.nan), ([math.nan], 0.1)])
def test_impossible_drops_are_refused(gaps: list[float], drop: float) -> None:
    """A negative or unknown drop, or unknown gaps."""
    with pytest.raises(InvalidInputError):
        calibrate_drop(gaps, [0.0], [0.0], tolerated_drop=drop)


def test_bandit_values_are_mean_rewards() -> None:
    """Rewards 1, 0 of LLM 0 and .4 of LLM 2 give .5 and .4; LLM 1 keeps its start."""
    state = PickLLM().learn(BanditState.start(3, value=0.9), [0, 2, 0], [1.0, 0.4, 0.0])

    np.testing.assert_allclose(state.values, [0.5, 0.9, 0.4])
    np.testing.assert_array_equal(state.counts, [2, 0, 1])


def test_bandit_with_a_step_forgets() -> None:
    """Step 1/2 from 0 with rewards 1, 1: 1/2, then 3/4."""
    state = PickLLM(step=0.5).learn(BanditState.start(1, value=0.0), [0, 0], [1.0, 1.0])

    np.testing.assert_allclose(state.values, [0.75])


def test_bandit_says_how_likely_each_choice_was() -> None:
    """Exploration .2 among four: .05 each, and .8 more for the best; a tie goes to the first."""
    state = BanditState(values=np.array([0.1, 0.7, 0.7, 0.2]), counts=np.ones(4))

    np.testing.assert_allclose(PickLLM(exploration=0.2).chances(state), [0.05, 0.85, 0.05, 0.05])


def test_bandit_finds_the_best_llm() -> None:
    """After 500 calls, one at a time, the LLM with the greatest mean reward is called most."""
    rng, bandit, state = np.random.default_rng(1), PickLLM(exploration=0.1), BanditState.start(3)
    reward = np.array([0.3, 0.8, 0.5])
    calls = np.zeros(3)
    for _ in range(500):
        chosen = bandit.choose(state, 1, rng=rng)
        calls[chosen] += 1
        state = bandit.learn(state, chosen, rng.random(1) < reward[chosen])

    assert calls.argmax() == state.values.argmax() == 1
    assert calls[1] > 350


def test_bandit_refuses_what_it_cannot_learn_from() -> None:
    """Unknown rewards, LLMs out of range, and settings that are no chances."""
    state = BanditState.start(2)

    with pytest.raises(InvalidInputError):
        PickLLM().learn(state, [0], [math.nan])
    with pytest.raises(InvalidInputError):
        PickLLM().learn(state, [2], [1.0])
    with pytest.raises(InvalidInputError):
        PickLLM(exploration=1.5)
    with pytest.raises(InvalidInputError):
        PickLLM(step=0.0)
