"""LLMs that joined after the models were fitted: judged by the others, and nobody else moves."""

import numpy as np
import pytest

from routing.costs import (
    LatencyModel,
    LengthModel,
    admit_newcomers,
    count_usage,
    fit_latencies,
    fit_lengths,
    time_replies,
)
from routing.errors import InvalidInputError

REPLIES = np.array([30.0, 10.0])
LENGTHS = LengthModel(
    levels=np.array([4.0, 5.0]),
    slopes=np.array([0.2, 0.6]),
    offsets=np.array([[0.5, 0.25], [-0.5, -0.25]]),
    spreads=np.sqrt(np.array([0.1, 0.5])),
    smears=np.array([1.1, 1.2]),
    log_input=4.0,
    input_ratios=np.array([1.0, 1.4]),
)
LATENCIES = LatencyModel(
    levels=np.array([-3.0, -1.0]), slopes=np.array([0.5, 0.9]), spreads=np.sqrt(np.array([0.1, 0.5]))
)


def test_a_newcomer_by_hand() -> None:
    """Three quarters of the first and one of the second: slope .3, variance .2, 2.5 below level; no cells."""
    lengths, latencies = admit_newcomers(
        LENGTHS, LATENCIES, columns=[-1], replies=REPLIES, prior_tokens=np.array([np.e**5 - 1])
    )

    assert lengths.slopes == pytest.approx([0.3])
    assert lengths.spreads**2 == pytest.approx([0.2])
    assert lengths.levels == pytest.approx([5 - 0.1 - 0.3 * 4])
    assert lengths.smears == pytest.approx([np.exp(0.1)])
    assert lengths.input_ratios == pytest.approx([1.1])
    assert lengths.offsets.tolist() == [[0.0], [0.0]]
    assert latencies.slopes == pytest.approx([0.6])
    assert latencies.levels == pytest.approx([-2.5])
    # .2 within LLMs, and .75 * .5^2 + .25 * 1.5^2 between them.
    assert latencies.spreads**2 == pytest.approx([0.95])


def test_a_newcomer_has_its_own_tokens_at_the_usual_length() -> None:
    """Registered with 400 tokens, it is expected to answer a prompt of the usual length with 400."""
    lengths, _ = admit_newcomers(
        LENGTHS, LATENCIES, columns=[0, -1, 1], replies=REPLIES, prior_tokens=np.full(3, 400.0)
    )
    usual = np.array([np.expm1(4.0)]) / 1.1  # as estimated

    assert lengths.expected_tokens(np.full((1, 2), 0.5, np.float32), usual)[0, 1] == pytest.approx(
        401, abs=0.1
    )


def test_the_others_keep_every_bit() -> None:
    """Whoever joins, in whatever place."""
    lengths, latencies = admit_newcomers(
        LENGTHS, LATENCIES, columns=[-1, 1, -1, 0], replies=REPLIES, prior_tokens=np.full(4, 9.0)
    )

    for name in ("levels", "slopes", "offsets", "spreads", "smears", "input_ratios"):
        assert getattr(lengths, name)[..., [3, 1]].tolist() == getattr(LENGTHS, name).tolist()
    for name in ("levels", "slopes", "spreads"):
        assert getattr(latencies, name)[[3, 1]].tolist() == getattr(LATENCIES, name).tolist()


def test_it_is_near_what_the_next_fit_says() -> None:
    """An LLM that the fits know without a reply gets about the same tokens and seconds from the others."""
    rng = np.random.default_rng(3)
    n, cells = 600, np.zeros((600, 1), dtype=np.int32)
    llms, inputs = rng.integers(0, 3, n), rng.lognormal(5, 1, n)
    outputs = np.exp(3 + 0.3 * np.log1p(inputs) + 0.2 * llms + rng.normal(0, 0.5, n))
    seconds = 0.02 * outputs * rng.lognormal(0, 0.3, n)
    priors = np.array([100.0, 100.0, 100.0, 300.0])

    def fit(n_llms: int) -> tuple[LengthModel, LatencyModel]:
        usage = count_usage(cells, llms, inputs, outputs, n_cells=1, n_llms=n_llms)
        timings = time_replies(llms, outputs, seconds, n_llms=n_llms)
        lengths = fit_lengths(usage, prior_tokens=priors[:n_llms], sizes=(1,))
        return lengths, fit_latencies(timings)

    lengths, latencies = admit_newcomers(
        *fit(3), columns=[0, 1, 2, -1], replies=np.bincount(llms).astype(float), prior_tokens=priors
    )
    later, later_seconds = fit(4)
    weights, asked = np.ones((2, 1), np.float32), np.array([50.0, 500.0])

    assert lengths.expected_tokens(weights, asked) == pytest.approx(
        later.expected_tokens(weights, asked), rel=0.05
    )
    assert latencies.seconds_expected(lengths, weights, asked) == pytest.approx(
        later_seconds.seconds_expected(later, weights, asked), rel=0.2
    )


def test_nobody_to_go_by_is_an_error() -> None:
    """Without a fitted column a newcomer cannot be judged; without a newcomer there is nothing to judge."""
    nobody = LengthModel(
        levels=np.zeros(0),
        slopes=np.zeros(0),
        offsets=np.zeros((1, 0)),
        spreads=np.zeros(0),
        smears=np.zeros(0),
    )
    none = LatencyModel(levels=np.zeros(0), slopes=np.zeros(0), spreads=np.zeros(0))

    assert admit_newcomers(nobody, none, columns=[], replies=np.zeros(0), prior_tokens=np.zeros(0))[
        0
    ].levels.shape == (0,)
    with pytest.raises(InvalidInputError, match="no LLM that others could be judged by"):
        admit_newcomers(nobody, none, columns=[-1], replies=np.zeros(0), prior_tokens=np.ones(1))
