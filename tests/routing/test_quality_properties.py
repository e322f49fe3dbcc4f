"""Invariants of the estimates, over counts that nobody thought of."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from routing.quality.pool_prior import PoolPrior, fit_pool_prior
from routing.quality.shrinkage import LevelPrior, shrink_error_rates

Array = NDArray[np.float64]
SIZES = (2, 3)


def prior_of(n_llms: int) -> PoolPrior:
    """Give a prior learned from drawn outcomes."""
    rng = np.random.default_rng(n_llms)
    finest = rng.integers(0, 3, 200)
    errors = (rng.random((200, n_llms)) < rng.random((3, n_llms))[finest]).astype(float)
    return fit_pool_prior(np.column_stack([finest // 2, 2 + finest]), errors, sizes=SIZES)


PRIORS = [prior_of(n_llms) for n_llms in (0, 1, 2, 3, 10)]


@st.composite
def label_counts(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draw weighted counts (5, 2) of one map: every resolution holds the same labels."""
    finest = draw(arrays(np.float64, (3, 2), elements=st.floats(0, 1e4, allow_subnormal=False)))
    shares = draw(arrays(np.float64, (3, 2), elements=st.floats(0, 1)))
    wrong = finest * shares

    def stack(fine: Array) -> Array:
        return np.concatenate([[fine[0] + fine[1], fine[2]], fine])

    return stack(wrong), stack(finest)


@given(label_counts(), st.sampled_from(PRIORS))
@settings(max_examples=100)
def test_pool_prior_rates_are_rates_within_their_intervals(
    counts: tuple[Array, Array], prior: PoolPrior
) -> None:
    """0 <= lower <= rate <= upper <= 1, whatever was counted and however many LLMs are known."""
    rates = prior.error_rates(*counts)
    lower, upper = prior.intervals(*counts)

    assert np.all((lower >= 0) & (lower <= rates) & (rates <= upper) & (upper <= 1))


@given(label_counts(), st.floats(0.01, 0.99), st.floats(0.005, 0.2))
@settings(max_examples=100)
def test_shrunk_rates_lie_between_raw_and_overall(
    counts: tuple[Array, Array], mean: float, variance: float
) -> None:
    """Each cell's rate lies between its raw and the LLM's overall rate, with or without a prior level."""
    errors, labels = counts
    for level in (None, LevelPrior(mean=mean, variance=variance)):
        rates = shrink_error_rates(errors, labels, sizes=SIZES, level=level)
        for cells in (slice(0, 2), slice(2, 5)):
            wrong, n = errors[cells].sum(axis=0), labels[cells].sum(axis=0)
            overall = np.array([0.5 if total == 0 else e / total for e, total in zip(wrong, n, strict=True)])
            if level is not None:
                overall = np.array([level.rate(*pair) for pair in zip(wrong, n, strict=True)])
            raw = np.where(labels[cells] > 0, errors[cells] / np.maximum(labels[cells], 1e-300), overall)
            assert np.all(rates[cells] >= np.minimum(raw, overall) - 1e-9)
            assert np.all(rates[cells] <= np.maximum(raw, overall) + 1e-9)
