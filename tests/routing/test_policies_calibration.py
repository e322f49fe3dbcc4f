"""Numbers set from representative prompts keep what they promise of the average."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.policies import (
    Candidates,
    EquivalentTo,
    Fixed,
    Lagrangian,
    calibrate_budget,
    calibrate_floor,
    calibrate_floor_on_labels,
    certify_equivalence,
)
from routing.policies.calibration import upper_mean

NAMES = ("a", "b", "c")


def draw_prompts(n: int, seed: int) -> Candidates:
    """Three LLMs at 1 : 4 : 20, better the dearer on average, not on every prompt."""
    rng = np.random.default_rng(seed)
    return Candidates(
        errors=np.clip(rng.normal([0.5, 0.35, 0.25], 0.15, (n, 3)), 0, 1),
        costs=1e-4 * rng.lognormal(0, 0.5, (n, 1)) * [1, 4, 20],
        allowed=np.ones((n, 3), dtype=bool),
        names=NAMES,
    )


def means(candidates: Candidates, policy: Lagrangian) -> tuple[float, float]:
    """Mean predicted error and cost of what a policy chooses."""
    llms = policy.choose(candidates, rng=np.random.default_rng(0)).llms
    rows = np.arange(len(llms))
    return float(candidates.errors[rows, llms].mean()), float(candidates.costs[rows, llms].mean())


def test_floor_by_hand() -> None:
    """Gains of .5 and .25 for 1 USD each: a margin of .125 on the best mean of .0 gives up the lesser gain.

    The best single LLM errs .0; leaving the second prompt to the cheap LLM makes the mean .125, lambda in
    .25...5.
    """
    candidates = Candidates(
        errors=np.array([[0.0, 0.5], [0.0, 0.25]]),
        costs=np.array([[1.0, 0.0], [1.0, 0.0]]),
        allowed=np.ones((2, 2), dtype=bool),
        names=("large", "small"),
    )

    assert calibrate_floor(candidates, 0.0).error_per_usd == pytest.approx(0.25)
    assert calibrate_floor(candidates, 0.125).error_per_usd == pytest.approx(0.5)
    assert calibrate_floor(candidates, 0.375).error_per_usd == math.inf


@given(seed=st.integers(0, 500), margin=st.floats(-0.05, 0.4))
@settings(max_examples=40)
def test_floor_keeps_the_average_and_wastes_nothing(seed: int, margin: float) -> None:
    """The mean error is within the margin where that can be had, and the next lambda would break it."""
    candidates = draw_prompts(60, seed)
    limit = candidates.errors.mean(axis=0).min() + margin
    found = calibrate_floor(candidates, margin)

    if means(candidates, Lagrangian(0.0))[0] > limit:
        assert found.error_per_usd == 0
    else:
        assert means(candidates, found)[0] <= limit
        if math.isfinite(found.error_per_usd):
            assert means(candidates, Lagrangian(found.error_per_usd * 1.0001 + 1e-9))[0] > limit


@given(seed=st.integers(0, 500), share=st.floats(0.01, 1.2))
@settings(max_examples=40)
def test_budget_keeps_the_average_and_leaves_little(seed: int, share: float) -> None:
    """The mean cost is at most the budget where that can be had, and a lower lambda would exceed it."""
    candidates = draw_prompts(60, seed)
    budget = share * float(candidates.costs[:, 2].mean())
    found = calibrate_budget(candidates, budget)

    if candidates.costs.min(axis=1).mean() > budget:
        assert found.error_per_usd == math.inf
    else:
        assert means(candidates, found)[1] <= budget
        if found.error_per_usd > 0:
            assert means(candidates, Lagrangian(found.error_per_usd * 0.9999))[1] > budget


def test_floor_on_labels_believes_outcomes() -> None:
    """The small LLM is predicted to be as good, for nothing, but is wrong more often: only labels tell.

    Of 98 prompts (100 with two pseudo-labels) the large one errs on none, the small one on 30: with it alone
    .30 are lost. A margin of .29 leaves the large one alone, one of .31 the small.
    """
    candidates = Candidates(
        errors=np.tile([0.2, 0.2], (98, 1)),
        costs=np.tile([1.0, 0.0], (98, 1)),
        allowed=np.ones((98, 2), dtype=bool),
        names=("large", "small"),
    )
    wrong = np.zeros((98, 2))
    wrong[:30, 1] = 1

    strict, lax = (calibrate_floor_on_labels(candidates, wrong, margin) for margin in (0.29, 0.31))

    assert calibrate_floor(candidates, 0.0).error_per_usd == math.inf
    assert strict == Fixed("large")
    assert isinstance(lax, Lagrangian)


def test_floor_on_labels_keeps_the_realised_average() -> None:
    """Outcomes drawn from the predicted errors: on fresh prompts the drop is near the margin or less."""
    rng = np.random.default_rng(3)
    known, fresh = draw_prompts(4000, 1), draw_prompts(4000, 2)

    policy = calibrate_floor_on_labels(known, (rng.random((4000, 3)) < known.errors).astype(float), 0.03)
    error, cost = means(fresh, policy)  # type: ignore[arg-type]

    assert error <= fresh.errors.mean(axis=0).min() + 0.03 + 0.015
    assert cost < 0.7 * fresh.costs[:, 2].mean()


def test_floor_on_labels_with_confidence_is_stricter() -> None:
    """The upper bound of the drop asks for no greater a lambda than the drop itself."""
    rng = np.random.default_rng(3)
    known = draw_prompts(500, 1)
    wrong = (rng.random((500, 3)) < known.errors).astype(float)

    mean, upper = (
        calibrate_floor_on_labels(known, wrong, 0.05, confidence=confidence) for confidence in (0.5, 0.9)
    )

    assert isinstance(mean, Lagrangian)
    assert isinstance(upper, Fixed) or upper.error_per_usd <= mean.error_per_usd


def test_upper_bound_by_hand() -> None:
    """98 differences, ten of +1, none of -1: 10 / 100 + 1.64485 sqrt((11 / 100 - .01) / 100) = .15202."""
    differences = np.concatenate([np.ones(10), np.zeros(88)])

    assert upper_mean(differences, 0.95) == pytest.approx(0.15202, abs=1e-5)
    assert upper_mean(np.zeros(0), 0.95) == pytest.approx(1.64485 * 0.5, abs=1e-4)


def test_certified_policies_keep_their_promise() -> None:
    """Over 300 draws of labels the true mean difference exceeds the margin in at most 5 % + 3 deviations."""
    rng, margin, broken, bold = np.random.default_rng(3), 0.03, 0, 0
    for seed in range(300):
        # What the predictions miss: each LLM's true error differs from the predicted by a shift of its own.
        candidates = draw_prompts(600, seed)
        true = np.clip(candidates.errors + rng.normal(0, 0.05, 3), 0, 1)
        wrong = (rng.random(true.shape) < true).astype(float)
        policy = certify_equivalence(candidates, wrong, reference="c", margin=margin)
        llms = policy.choose(candidates, rng=rng).llms
        broken += (true[np.arange(600), llms] - true[:, 2]).mean() > margin
        bold += isinstance(policy, EquivalentTo) and policy.margin > 0

    assert broken <= 300 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 300))
    assert bold > 30


def test_few_labels_certify_nothing() -> None:
    """From five labels nothing is promised but the reference itself."""
    candidates = draw_prompts(5, 0)

    assert certify_equivalence(candidates, np.zeros((5, 3)), reference="c", margin=0.02) == Fixed("c")


def test_impossible_outcomes_are_refused() -> None:
    """Outcomes are in 0..1 and one per prompt and LLM."""
    candidates = draw_prompts(5, 0)

    with pytest.raises(InvalidInputError, match="wrong"):
        certify_equivalence(candidates, np.zeros((5, 2)), reference="c", margin=0.02)
    with pytest.raises(InvalidInputError, match="wrong"):
        certify_equivalence(candidates, np.full((5, 3), np.nan), reference="c", margin=0.02)
