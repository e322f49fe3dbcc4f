"""Decisions with a length model: own costs, hard limits, and replays that stay bit-identical."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.clusters import ClusterMap, Placement
from routing.costs import LengthModel
from routing.decisions import Decisions, Prompts, decide, decide_placed, explain
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError
from routing.llms import LLM, Price
from routing.policies import Lagrangian
from routing.requests import NO_LIMITS, Limits
from routing.snapshot import Snapshot, Versions

RNG = np.random.default_rng(2)
N_PROMPTS, N_LLMS, DIMENSION = 60, 5, 8
POLICY = Lagrangian(30.0)


def unit_rows(n: int) -> np.ndarray:
    """Random directions."""
    rows = RNG.normal(size=(n, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def snapshot(lengths: LengthModel | None) -> Snapshot:
    """Five LLMs on a map of nine cells."""
    return Snapshot(
        cluster_map=MAP,
        llms=LLMS,
        error_rates=RATES,
        output_tokens=np.full(N_LLMS, 100.0),
        versions=Versions(error_rates="1", prices="1"),
        lengths=lengths,
    )


MAP = ClusterMap(
    centroids=unit_rows(9),
    sizes=(3, 6),
    temperature=8.0,
    fingerprint=Fingerprint(name="random", dimension=DIMENSION, precision="f32", max_length=1, checksum=""),
)
LLMS = tuple(
    LLM(name=f"llm-{i}", price=Price(input_usd_per_mtok=1.0 + i, output_usd_per_mtok=10.0 * i + 1))
    for i in range(N_LLMS)
)
RATES = RNG.random((9, N_LLMS))
LENGTHS = LengthModel(
    levels=RNG.normal(5, 0.5, N_LLMS),
    slopes=np.full(N_LLMS, 0.1),
    offsets=RNG.normal(0, 0.5, (9, N_LLMS)),
    spreads=np.full(N_LLMS, 0.6),
    smears=np.full(N_LLMS, math.exp(0.18)),
)
SNAPSHOT = snapshot(LENGTHS)
WISHES = [
    Limits(max_output_tokens=int(RNG.integers(1, 300)), max_cost_usd=0.01) if i % 3 else NO_LIMITS
    for i in range(N_PROMPTS)
]
PROMPTS = Prompts(
    embeddings=unit_rows(N_PROMPTS), input_tokens=RNG.integers(1, 900, N_PROMPTS).astype(float), limits=WISHES
)
WHOLE = decide(PROMPTS, SNAPSHOT, POLICY, rng=RNG)


def decide_again(rows: np.ndarray) -> Decisions:
    """Decide these rows from what was logged of them."""
    return decide_placed(
        Placement(WHOLE.weights[rows], WHOLE.cells[rows]),
        PROMPTS.input_tokens[rows],
        [WISHES[row] for row in rows],
        SNAPSHOT,
        POLICY,
        rng=RNG,
    )


@given(rows=st.lists(st.integers(0, N_PROMPTS - 1), min_size=1, max_size=40))
@settings(max_examples=50)
def test_batch_changes_no_bit(rows: list[int]) -> None:
    """With lengths learned and limits mixed, a logged row decided again gives the same bits."""
    picked = np.array(rows)
    again = decide_again(picked)

    assert np.array_equal(again.llms, WHOLE.llms[picked])
    for name in ("predicted_errors", "predicted_costs", "costs", "ceilings"):
        assert getattr(again, name).tobytes() == getattr(WHOLE, name)[picked].tobytes()


def test_costs_are_the_prompts_own() -> None:
    """Each cost is the price of the prompt's tokens and of its expected answer, no longer than allowed."""
    most = np.array([wish.max_output_tokens or np.inf for wish in WISHES])
    tokens = LENGTHS.expected_tokens(WHOLE.weights, PROMPTS.input_tokens, most=most)
    prices = np.array([[llm.price.input_usd_per_mtok, llm.price.output_usd_per_mtok] for llm in LLMS])

    expected = (PROMPTS.input_tokens[:, None] * prices[:, 0] + tokens * prices[:, 1]) / 1e6

    assert WHOLE.costs == pytest.approx(expected)
    assert np.all(tokens <= most[:, None])


def test_greatest_cost_holds_for_nearly_all_answers() -> None:
    """An LLM that costs less than the limit on average, but may well cost more, is removed by it."""
    one = slice(0, 1)
    free = Prompts(embeddings=PROMPTS.embeddings[one], input_tokens=PROMPTS.input_tokens[one])
    before = decide(free, SNAPSHOT, POLICY, rng=RNG)
    between = float(before.costs[0, 4] + before.ceilings[0, 4]) / 2
    limited = Prompts(
        embeddings=free.embeddings, input_tokens=free.input_tokens, limits=[Limits(max_cost_usd=between)]
    )

    after = decide(limited, SNAPSHOT, POLICY, rng=RNG)

    assert before.costs[0, 4] < between < before.ceilings[0, 4]
    assert after.removed(0)["llm-4"] == "max_cost"
    facts = {fact.name: fact for fact in explain(after, 0).candidates}
    assert facts["llm-4"].ceiling_usd == before.ceilings[0, 4]


def test_without_lengths_the_expected_cost_is_the_ceiling() -> None:
    """Where nothing is known of the spread the limit is held against the expected cost."""
    decisions = decide(PROMPTS, snapshot(None), POLICY, rng=RNG)

    assert np.array_equal(decisions.ceilings, decisions.costs)


def test_lengths_of_another_pool_are_refused() -> None:
    """A length model has the snapshot's cells and LLMs."""
    other = LengthModel(
        levels=np.zeros(2),
        slopes=np.zeros(2),
        offsets=np.zeros((9, 2)),
        spreads=np.ones(2),
        smears=np.ones(2),
    )

    with pytest.raises(InvalidInputError, match="lengths"):
        snapshot(other)
