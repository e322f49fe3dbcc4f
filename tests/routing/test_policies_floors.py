"""Good enough and cheapest: floors under the best and equivalence to a reference, by hand and in bulk."""

import numpy as np
import pytest

from routing.errors import InvalidInputError, UnknownLLMError
from routing.policies import Candidates, EquivalentTo, QualityFloor

RNG = np.random.default_rng(0)


def candidates(
    errors: list[float],
    costs: list[float],
    *,
    deviations: list[float] | None = None,
    allowed: list[bool] | None = None,
) -> Candidates:
    """One prompt, LLMs a, b, c, ..."""
    return Candidates(
        errors=np.array([errors]),
        costs=np.array([costs]),
        allowed=np.array([[True] * len(errors) if allowed is None else allowed]),
        names=tuple("abcdefgh"[: len(errors)]),
        deviations=None if deviations is None else np.array([deviations]),
    )


def choose(policy: QualityFloor | EquivalentTo, offered: Candidates) -> int:
    """The column chosen."""
    return int(policy.choose(offered, rng=RNG).llms[0])


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 2), (0.0625, 1), (0.124, 1), (0.125, 0), (1.0, 0)])
def test_floor_is_a_margin_above_the_least_error(margin: float, expected: int) -> None:
    """Errors .25, .1875, .125 at falling thrift: the margin decides how far down the price list it goes."""
    offered = candidates([0.25, 0.1875, 0.125], [1.0, 2.0, 3.0])

    assert choose(QualityFloor(margin=margin), offered) == expected


def test_floor_on_the_upper_bound_asks_for_sureness() -> None:
    """With deviation .05 the bound at 95 % is .12 + 1.645 x .05 = .202, above .15; with .01 it is .136."""
    policy = QualityFloor(margin=0.05, confidence=0.95)

    assert choose(policy, candidates([0.12, 0.1], [1.0, 2.0], deviations=[0.05, 0.05])) == 1
    assert choose(policy, candidates([0.12, 0.1], [1.0, 2.0], deviations=[0.01, 0.05])) == 0


def test_floor_is_under_the_best_that_is_allowed() -> None:
    """A removed LLM sets no floor, and nothing allowed is -1."""
    policy = QualityFloor(margin=0.1)

    assert choose(policy, candidates([0.5, 0.45, 0.0], [1.0, 2.0, 3.0], allowed=[True, True, False])) == 0
    assert choose(policy, candidates([0.5], [1.0], allowed=[False])) == -1


def test_equivalent_by_hand() -> None:
    """Against c at .1: b is .02 +- sqrt(.0008) = .0283 worse, .0666 at 95 %: within .07, not within .06."""
    offered = candidates([0.3, 0.12, 0.1], [1.0, 2.0, 3.0], deviations=[0.02, 0.02, 0.02])

    assert choose(EquivalentTo(reference="c", margin=0.07), offered) == 1
    assert choose(EquivalentTo(reference="c", margin=0.06), offered) == 2
    assert choose(EquivalentTo(reference="c", margin=0.03, confidence=0.5), offered) == 1


def test_reference_is_equivalent_to_itself() -> None:
    """Even with margin 0 and no sureness at all the reference qualifies."""
    offered = candidates([0.5, 0.5], [1.0, 2.0], deviations=[0.3, 0.3])

    assert choose(EquivalentTo(reference="b", margin=0.0), offered) == 1


def test_removed_reference_leaves_the_best_of_the_rest() -> None:
    """Where neither the reference nor an equivalent is allowed, the least predicted error is chosen."""
    offered = candidates(
        [0.4, 0.3, 0.1], [1.0, 2.0, 3.0], deviations=[0.0, 0.0, 0.0], allowed=[True, True, False]
    )

    assert choose(EquivalentTo(reference="c", margin=0.05), offered) == 1


def test_equivalence_keeps_its_promise() -> None:
    """Where errors scatter normally around the predicted, at most 5 % of choices break the margin."""
    rng = np.random.default_rng(4)
    predicted, deviations = rng.uniform(0.2, 0.5, (20_000, 6)), rng.uniform(0.01, 0.08, (20_000, 6))
    true = rng.normal(predicted, deviations)
    offered = Candidates(
        errors=predicted,
        costs=np.tile(np.arange(6.0), (20_000, 1)),
        allowed=np.ones((20_000, 6), dtype=bool),
        names=tuple("abcdef"),
        deviations=deviations,
    )

    chosen = EquivalentTo(reference="f", margin=0.05).choose(offered, rng=rng).llms
    broken = true[np.arange(20_000), chosen] - true[:, 5] >= 0.05

    assert (chosen < 5).mean() > 0.2
    assert broken[chosen < 5].mean() <= 0.05


def test_sureness_needs_deviations() -> None:
    """A confidence above .5 without deviations is an error, not a silent mean."""
    offered = candidates([0.5, 0.4], [1.0, 2.0])

    with pytest.raises(InvalidInputError, match="deviations"):
        choose(QualityFloor(margin=0.1, confidence=0.9), offered)
    with pytest.raises(UnknownLLMError):
        choose(EquivalentTo(reference="z", margin=0.1, confidence=0.5), offered)


@pytest.mark.parametrize("settings", [{"margin": -0.1}, {"margin": 1.1}, {"margin": 0.1, "confidence": 1.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    """Margins are in 0..1, confidence in [.5, 1)."""
    with pytest.raises(InvalidInputError):
        QualityFloor(**settings)
    with pytest.raises(InvalidInputError):
        EquivalentTo(reference="a", **settings)
