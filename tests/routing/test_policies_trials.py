"""LLMs on trial get their share at most; exploration goes where the best may be, and nowhere never."""

from collections.abc import Mapping

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.policies import (
    Candidates,
    Ceiling,
    Choices,
    Exploration,
    Fixed,
    Lagrangian,
    LoggedDraws,
    OnTrial,
    UniformSource,
    keep_on_trial,
    probabilities_of,
)
from routing.policies.chances import odds_of_best

NAMES = ("a", "b", "new")


def see(errors: list[list[float]], *, deviations: float | None = None, **settings: object) -> Candidates:
    """Give candidates of cost 1 each, all allowed."""
    values = np.array(errors)
    allowed = np.ones(values.shape, dtype=np.bool_)
    for name in settings.get("without", ()):  # type: ignore[attr-defined]
        allowed[:, NAMES.index(name)] = False
    return Candidates(
        errors=values,
        costs=np.ones(values.shape),
        allowed=allowed,
        names=NAMES,
        deviations=None if deviations is None else np.full(values.shape, deviations),
    )


def test_an_llm_on_trial_gets_its_share_at_most() -> None:
    """The best of all gets .1 of the prompts while on trial, and nothing where it is not the best."""
    policy = OnTrial(Lagrangian(0.0), {"new": 0.1})

    odds = policy.probabilities(see([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]]))

    np.testing.assert_allclose(odds, [[0.0, 0.9, 0.1], [1.0, 0.0, 0.0]])


def test_two_on_trial_are_offered_one_at_a_time() -> None:
    """``b`` has .2 and ``new`` .1 of the prompts to win; the rest sees neither."""
    odds = OnTrial(Lagrangian(0.0), {"new": 0.1, "b": 0.2}).probabilities(see([[0.3, 0.2, 0.1]]))

    np.testing.assert_allclose(odds, [[0.7, 0.2, 0.1]])


def test_who_asks_for_it_gets_it() -> None:
    """A caller whose limits leave nothing else, and a policy that names it, have it each time."""
    alone = OnTrial(Lagrangian(0.0), {"new": 0.1}).probabilities(see([[0.1] * 3], without=("a", "b")))
    named = OnTrial(Fixed("new"), {"new": 0.1}).probabilities(see([[0.1] * 3]))

    np.testing.assert_allclose(alone, [[0, 0, 1]])
    np.testing.assert_allclose(named, [[0, 0, 1]])


def test_a_draw_decides_and_a_ceiling_holds() -> None:
    """Draws below .9 see the old ones alone; under a ceiling of 1 USD the second prompt gets nothing."""
    policy = keep_on_trial(Ceiling(policy=Lagrangian(0.0), remaining_usd=1.0), {"new": 0.1})
    seen = see([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1]])

    choices = policy.choose(seen, rng=LoggedDraws(np.array([0.95, 0.5])))

    assert choices.llms.tolist() == [2, -1]
    assert choices.propensities.tolist() == [pytest.approx(0.1), 0.0]


def test_shares_are_checked() -> None:
    """Shares are at most 1 together, and none is below 0."""
    for shares in ({"a": 0.6, "b": 0.6}, {"a": -0.1}, {"a": float("nan")}):
        with pytest.raises(InvalidInputError):
            OnTrial(Lagrangian(0.0), shares)


def test_odds_of_the_best_are_those_of_two_normals() -> None:
    """Errors .1 and .2, deviations .1 each: the first is less with Phi(.1 / .1414) = .7602, within .01."""
    seen = see([[0.1, 0.2, 0.0]], deviations=0.1)

    odds = odds_of_best(seen.errors, np.full((1, 3), 0.1), np.array([[True, True, False]]))

    np.testing.assert_allclose(odds, [[0.7602, 0.2398, 0.0]], atol=0.01)


def test_exploration_goes_where_the_best_may_be() -> None:
    """Half explored: .1 evenly over the two of the band (even .2), .4 by the odds of being the best."""
    policy = Exploration(policy=Lagrangian(0.0), share=0.5, band=0.1)

    odds = probabilities_of(policy, see([[0.1, 0.2, 0.3]], deviations=0.1))

    np.testing.assert_allclose(odds, [[0.5 + 0.05 + 0.4 * 0.7602, 0.05 + 0.4 * 0.2398, 0.0]], atol=0.005)


def test_a_sure_loser_of_the_band_keeps_a_chance() -> None:
    """With deviations of 0 the odds of the second are 0; its even part, .5 * .2 / 2, stays."""
    policy = Exploration(policy=Lagrangian(0.0), share=0.5, band=0.1)

    odds = probabilities_of(policy, see([[0.1, 0.2, 0.3]], deviations=0.0))

    np.testing.assert_allclose(odds, [[0.95, 0.05, 0.0]])


def test_no_row_depends_on_its_batch() -> None:
    """300 prompts at once, or one by one: the same bits."""
    rng = np.random.default_rng(0)
    seen = Candidates(
        errors=rng.random((300, 3)),
        costs=rng.random((300, 3)),
        allowed=rng.random((300, 3)) < 0.8,
        names=NAMES,
        deviations=rng.random((300, 3)) / 5,
    )
    policy = OnTrial(Exploration(policy=Lagrangian(0.1), share=0.2, band=0.5), {"new": 0.1})

    together = policy.probabilities(seen)
    apart = np.concatenate([policy.probabilities(seen.rows(slice(row, row + 1))) for row in range(300)])

    assert together.tobytes() == apart.tobytes()


class Reserving:
    """Counts how often it is asked, and keeps the trials to itself."""

    def __init__(self) -> None:
        self.asked = 0
        self.shares: Mapping[str, float] = {}

    def trying(self, shares: Mapping[str, float]) -> "Reserving":
        """Keep them."""
        self.shares = shares
        return self

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Choose the least error."""
        self.asked += 1
        return keep_on_trial(Lagrangian(0.0), self.shares).choose(candidates, rng=rng)


def test_a_policy_that_reserves_is_asked_once() -> None:
    """It keeps LLMs on trial itself: asking it for each set of them would reserve each time."""
    policy = Reserving()

    choices = keep_on_trial(policy, {"new": 0.1}).choose(
        see([[0.3, 0.2, 0.1]]), rng=LoggedDraws(np.array([0.5]))
    )

    assert policy.asked == 1
    assert choices.llms.tolist() == [1]
    assert choices.propensities.tolist() == [0.9]
