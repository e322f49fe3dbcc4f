"""What a decision promises: it depends on nothing but its own row, and it can be made again bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.clusters import ClusterMap, Placement
from routing.decisions import Decisions, Prompts, decide, decide_in_blocks, decide_placed
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError
from routing.llms import LLM, Price
from routing.policies import Exploration, Lagrangian, LoggedDraws
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions

RNG = np.random.default_rng(7)
DIMENSION, N_PROMPTS, N_LLMS = 24, 200, 17
POLICY = Lagrangian(30.0)


def unit_rows(n: int) -> np.ndarray:
    """Random directions."""
    rows = RNG.normal(size=(n, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


SNAPSHOT = Snapshot(
    cluster_map=ClusterMap(
        centroids=unit_rows(35),
        sizes=(5, 10, 20),
        temperature=16.0,
        fingerprint=Fingerprint(
            name="random", dimension=DIMENSION, precision="f32", max_length=1, checksum=""
        ),
    ),
    llms=tuple(
        LLM(name=f"llm-{i:02}", price=Price(input_usd_per_mtok=1.0 + i, output_usd_per_mtok=2.0 * i))
        for i in range(N_LLMS)
    ),
    error_rates=RNG.random((35, N_LLMS)),
    output_tokens=np.linspace(50, 300, N_LLMS),
    versions=Versions(error_rates="1", prices="1"),
)
PROMPTS = Prompts(embeddings=unit_rows(N_PROMPTS), input_tokens=RNG.integers(1, 900, N_PROMPTS).astype(float))
WHOLE = decide(PROMPTS, SNAPSHOT, POLICY, rng=RNG)


def decide_again(rows: np.ndarray) -> Decisions:
    """Decide these rows from what was logged of them."""
    return decide_placed(
        Placement(WHOLE.weights[rows], WHOLE.cells[rows]),
        PROMPTS.input_tokens[rows],
        None,
        SNAPSHOT,
        POLICY,
        rng=LoggedDraws(WHOLE.draws[rows]),
    )


@given(rows=st.lists(st.integers(0, N_PROMPTS - 1), min_size=1, max_size=120))
@settings(max_examples=60)
def test_batch_changes_no_bit(rows: list[int]) -> None:
    """A logged row decided again, alone or in any company and order, gives the same bits."""
    picked = np.array(rows)

    again = decide_again(picked)

    assert np.array_equal(again.llms, WHOLE.llms[picked])
    for name in ("predicted_errors", "predicted_costs", "propensities", "errors", "costs"):
        assert getattr(again, name).tobytes() == getattr(WHOLE, name)[picked].tobytes()


@given(order=st.permutations(range(35)))
@settings(max_examples=30)
def test_cluster_labels_change_no_decision(order: list[int]) -> None:
    """Errors are the same bits whatever numbers the clusters carry."""
    relabelled = WHOLE.weights[:, order].astype(np.float64) @ SNAPSHOT.error_rates[order]

    assert relabelled.tobytes() == WHOLE.errors.tobytes()


def test_errors_are_exact_sums() -> None:
    """The predicted error is the rational number that weights and rates give, not one rounded on the way."""
    weights = [int(w * 2**24) for w in WHOLE.weights[3].astype(np.float64)]
    rates = [int(r * 2**28) for r in SNAPSHOT.error_rates[:, 5]]

    exact = sum(w * r for w, r in zip(weights, rates, strict=True))

    assert WHOLE.errors[3, 5] == exact / 2**52


def test_no_candidate_is_signalled_with_reasons() -> None:
    """A prompt whose limits leave nothing is flagged and explained; its neighbours are decided."""
    prompts = Prompts(
        embeddings=PROMPTS.embeddings[:2],
        input_tokens=PROMPTS.input_tokens[:2],
        limits=[Limits(max_cost_usd=0.0), Limits()],
    )

    decisions = decide(prompts, SNAPSHOT, POLICY, rng=RNG)

    assert decisions.no_candidate.tolist() == [True, False]
    assert decisions.llm(0) is None
    assert decisions.removed(0) == dict.fromkeys(SNAPSHOT.names, "max_cost")
    assert np.isnan(decisions.predicted_errors[0])
    assert decisions.propensities.tolist() == [0.0, 1.0]
    assert decisions.llm(1) == WHOLE.llm(1)


def test_no_prompts_no_decisions() -> None:
    """An empty batch is a batch."""
    empty = Prompts(embeddings=np.empty((0, DIMENSION), dtype=np.float32), input_tokens=np.empty(0))

    assert len(decide(empty, SNAPSHOT, POLICY, rng=RNG)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_numbers_are_refused(bad: float) -> None:
    """NaN and infinity never reach a decision."""
    rows = PROMPTS.embeddings.copy()
    rows[4, 2] = bad

    with pytest.raises(InvalidInputError, match="finite"):
        decide(Prompts(embeddings=rows, input_tokens=PROMPTS.input_tokens), SNAPSHOT, POLICY, rng=RNG)


def test_blocks_decide_as_the_whole_does() -> None:
    """Block by block the choices, draws included, are those of one batch."""
    policy = Exploration(policy=POLICY, share=0.3, band=0.2)
    whole = decide(PROMPTS, SNAPSHOT, policy, rng=np.random.default_rng(3))

    blocks = list(decide_in_blocks(PROMPTS, SNAPSHOT, policy, rng=np.random.default_rng(3), block=37))

    assert [len(block) for block in blocks] == [37, 37, 37, 37, 37, 15]
    assert np.array_equal(np.concatenate([block.llms for block in blocks]), whole.llms)
    assert np.array_equal(np.concatenate([block.propensities for block in blocks]), whole.propensities)


def test_one_cluster_knows_no_prompt() -> None:
    """With K = 1 every prompt of the same length gets the same LLM: the ZeroRouter's points."""
    zero = Snapshot(
        cluster_map=ClusterMap(
            centroids=unit_rows(1), sizes=(1,), temperature=16.0, fingerprint=SNAPSHOT.cluster_map.fingerprint
        ),
        llms=SNAPSHOT.llms,
        error_rates=SNAPSHOT.error_rates[:1],
        output_tokens=SNAPSHOT.output_tokens,
        versions=SNAPSHOT.versions,
    )
    alike = Prompts(embeddings=PROMPTS.embeddings, input_tokens=np.full(N_PROMPTS, 50.0))

    best, cheapest = (
        decide(alike, zero, Lagrangian(error_per_usd), rng=RNG) for error_per_usd in (0.0, np.inf)
    )

    assert set(best.llms) == {int(zero.error_rates[0].argmin())}
    assert set(cheapest.llms) == {int(cheapest.costs[0].argmin())}


def test_one_cluster_per_labelled_prompt_is_the_nearest_neighbour() -> None:
    """A hard map with a cluster for each labelled prompt predicts the nearest outcome: kNN, k = 1."""
    labelled, outcomes = unit_rows(30), RNG.integers(0, 2, (30, N_LLMS)).astype(float)
    cluster_map = ClusterMap(
        centroids=labelled, sizes=(30,), temperature=np.inf, fingerprint=SNAPSHOT.cluster_map.fingerprint
    )
    nearest = (PROMPTS.embeddings @ labelled.T).argmax(axis=1)

    predicted = cluster_map.weights(PROMPTS.embeddings) @ outcomes

    assert np.array_equal(predicted, outcomes[nearest])
