"""Input tokens as LLMs bill them: learned ratios, and costs, lengths and limits that go by them."""

import numpy as np
import pytest

from routing.clusters import ClusterMap, Placement
from routing.costs import InputCounts, LengthModel, count_inputs, expected_costs, fit_input_ratios
from routing.decisions import decide_placed
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError
from routing.llms import LLM, Price
from routing.policies import Lagrangian
from routing.snapshot import Snapshot, Versions

WHOLE = np.ones((1, 1), dtype=np.float32)


def model(ratios: np.ndarray) -> LengthModel:
    """Answers as long as their prompts, as these LLMs count."""
    n = len(ratios)
    return LengthModel(
        levels=np.zeros(n),
        slopes=np.ones(n),
        offsets=np.zeros((1, n)),
        spreads=np.full(n, 0.5),
        smears=np.ones(n),
        input_ratios=ratios,
    )


def test_counts_by_hand() -> None:
    """Two replies of the second LLM, one of the first; disjoint replies add."""
    first = count_inputs(np.array([1, 0]), np.array([10.0, 4.0]), np.array([15.0, 4.0]), n_llms=2)
    second = count_inputs(np.array([1]), np.array([30.0]), np.array([45.0]), n_llms=2)
    counts = first + second

    assert counts.replies.tolist() == [1, 2]
    assert counts.estimated.tolist() == [4, 40]
    assert counts.billed.tolist() == [4, 60]


def test_ratios_by_hand() -> None:
    """50 replies of 10 tokens: 200 hold the pool's (600 + 200) / (500 + 200), and 200 at 8/7 each LLM's."""
    counts = InputCounts(
        np.array([40.0, 10.0, 0.0]), np.array([400.0, 100.0, 0.0]), np.array([400.0, 200.0, 0.0])
    )
    held = 200 * 8 / 7

    assert fit_input_ratios(counts) == pytest.approx([(400 + held) / 600, (200 + held) / 300, 8 / 7])


def test_nothing_learned_leaves_estimates_alone() -> None:
    """Without a reply every ratio is exactly 1, and a model that was told none has none."""
    nothing = InputCounts(np.zeros(3), np.zeros(3), np.zeros(3))

    assert fit_input_ratios(nothing).tolist() == [1, 1, 1]
    assert model(np.ones(2)).billed_tokens(np.array([3.7])).tolist() == [[3.7, 3.7]]


def test_an_endpoint_that_lies_is_believed_to_a_bound() -> None:
    """Two thousand million tokens for a prompt of ten are taken for a hundred."""
    counts = InputCounts(np.array([1000.0]), np.array([10_000.0]), np.array([2e12]))

    assert fit_input_ratios(counts).tolist() == [10.0]


def test_each_llm_is_asked_by_its_own_count() -> None:
    """100 tokens that b bills as 200: it costs and writes twice as much, and its context is full."""
    snapshot = Snapshot(
        cluster_map=ClusterMap(
            centroids=np.ones((1, 1), dtype=np.float32),
            sizes=(1,),
            temperature=float("inf"),
            fingerprint=Fingerprint(name="one", dimension=1, precision="f32", max_length=8, checksum="a"),
        ),
        llms=tuple(
            LLM(name=name, price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=0.0), context_length=150)
            for name in "ab"
        ),
        error_rates=np.full((1, 2), 0.5),
        output_tokens=np.full(2, 256.0),
        versions=Versions(error_rates="1", prices="1"),
        lengths=model(np.array([1.0, 2.0])),
    )
    found = decide_placed(
        Placement(weights=WHOLE, cells=np.zeros((1, 1), dtype=np.int32)),
        np.array([100.0]),
        None,
        snapshot,
        Lagrangian(error_per_usd=1.0),
        rng=np.random.default_rng(0),
    )

    assert found.costs[0] == pytest.approx([100e-6, 200e-6])
    assert found.removed(0) == {"b": "context_length"}
    assert snapshot.predict_tokens(WHOLE, np.array([100.0]))[0] == pytest.approx([101, 201], abs=0.01)


def test_ratios_must_make_sense() -> None:
    """Above 0 and finite; counts too."""
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="input_ratios"):
            model(np.array([bad]))
    with pytest.raises(InvalidInputError, match="estimated"):
        count_inputs(np.array([0]), np.array([0.0]), np.array([1.0]), n_llms=1)
    with pytest.raises(InvalidInputError, match="billed"):
        count_inputs(np.array([0]), np.array([1.0]), np.array([-1.0]), n_llms=1)
    with pytest.raises(InvalidInputError, match="llms"):
        count_inputs(np.array([1]), np.array([1.0]), np.array([1.0]), n_llms=1)


def test_costs_take_inputs_by_llm() -> None:
    """(n,) is the same with every LLM; (n, H) is each LLM's own; anything else is an error."""
    llms = [LLM(name=name, price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)) for name in "ab"]
    same = expected_costs(np.array([3.0, 5.0]), np.zeros(2), llms)

    assert expected_costs(np.array([[3.0, 3.0], [5.0, 5.0]]), np.zeros(2), llms).tolist() == same.tolist()
    assert expected_costs(np.zeros(0), np.zeros(2), llms).shape == (0, 2)
    with pytest.raises(InvalidInputError, match="input_tokens"):
        expected_costs(np.zeros((2, 3)), np.zeros(2), llms)
