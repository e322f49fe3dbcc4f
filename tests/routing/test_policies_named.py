"""One LLM always, two with a threshold, and presets."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.errors import InvalidInputError, UnknownLLMError
from routing.policies import Candidates, Fixed, Threshold, calibrate_threshold, preset_policy

RNG = np.random.default_rng(0)


def candidates(
    errors: list[list[float]], costs: list[list[float]], allowed: list[list[bool]] | None = None
) -> Candidates:  # broadcast
    """LLMs strong and weak, in this order."""
    held = np.array(errors)
    return Candidates(
        errors=held,
        costs=np.array(costs),
        allowed=np.ones(held.shape, dtype=bool) if allowed is None else np.array(allowed),
        names=("strong", "weak"),
    )


def test_fixed_has_no_stand_in() -> None:
    """The named LLM or nothing; a name nobody has is an error."""
    offered = candidates([[0.1, 0.2]] * 2, [[1.0, 0.0]] * 2, [[True, True], [True, False]])

    assert Fixed("weak").choose(offered, rng=RNG).llms.tolist() == [1, -1]
    with pytest.raises(UnknownLLMError):
        Fixed("other").choose(offered, rng=RNG)


def test_threshold_on_the_gain() -> None:
    """Gains .25, .125, -.25 against a threshold of .125: met exactly is enough."""
    offered = candidates([[0.25, 0.5], [0.25, 0.375], [0.5, 0.25]], [[2.0, 1.0]] * 3)

    chosen = Threshold(weak="weak", strong="strong", threshold=0.125).choose(offered, rng=RNG).llms

    assert chosen.tolist() == [0, 0, 1]


def test_threshold_per_usd() -> None:
    """.25 for 4 USD is .0625, .125 for 1 USD is .125; where strong costs no more any gain is enough."""
    offered = candidates(
        [[0.25, 0.5], [0.25, 0.375], [0.25, 0.251], [0.5, 0.25]],
        [[5.0, 1.0], [2.0, 1.0], [1.0, 1.0], [1.0, 2.0]],
    )

    policy = Threshold(weak="weak", strong="strong", threshold=0.1, per_usd=True)

    assert policy.gains(offered).tolist() == [0.0625, 0.125, math.inf, -math.inf]
    assert policy.choose(offered, rng=RNG).llms.tolist() == [1, 0, 0, 1]


def test_threshold_takes_what_is_allowed() -> None:
    """With one of the two removed the other is chosen, with both removed nothing."""
    offered = candidates(
        [[0.0, 0.9], [0.9, 0.0], [0.0, 0.9]],
        [[1.0, 0.0]] * 3,
        [[False, True], [True, False], [False, False]],
    )

    chosen = Threshold(weak="weak", strong="strong", threshold=0.1).choose(offered, rng=RNG).llms

    assert chosen.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, math.inf), (0.25, 0.5), (0.5, 0.3), (1.0, -math.inf), (0.74, 0.3)]
)
def test_calibrated_threshold_by_hand(share: float, expected: float) -> None:
    """Gains .5, .3, .2, .1: a quarter of the prompts is the one above .5, half of them the two above .3."""
    assert calibrate_threshold(np.array([0.2, 0.5, 0.1, 0.3]), share) == expected


@given(
    gains=st.lists(st.sampled_from([-0.5, 0.0, 0.1, 0.2, 0.3]), min_size=1, max_size=30),
    share=st.floats(0, 1),
)
def test_calibrated_share_is_never_exceeded(gains: list[float], share: float) -> None:
    """Ties included, no more than the share goes to the strong LLM; the next lower gain would exceed it."""
    values = np.array(gains)
    threshold = calibrate_threshold(values, share)
    sent = (values >= threshold).sum()

    assert sent <= share * len(values) + 1e-9
    if left_out := [gain for gain in gains if gain < threshold]:
        assert (values >= max(left_out)).sum() > share * len(values) - 1e-9


@pytest.mark.parametrize(
    ("name", "expected"), [("performance-first", 0.0), ("balanced", 500.0), ("cost-first", 2000.0)]
)
def test_presets_by_hand(name: str, expected: float) -> None:
    """Weights (1, 0), (.5, .5), (.2, .8) over a reference of .002 USD: lambda 0, 1 / .002 and 4 / .002."""
    assert preset_policy(name, reference_cost_usd=0.002).error_per_usd == pytest.approx(expected)


def test_unknown_preset_and_reference_are_refused() -> None:
    """Another name and a reference that is not above 0 are errors."""
    with pytest.raises(InvalidInputError, match="balanced"):
        preset_policy("frugal", reference_cost_usd=1.0)
    with pytest.raises(InvalidInputError, match="reference_cost_usd"):
        preset_policy("balanced", reference_cost_usd=0.0)
