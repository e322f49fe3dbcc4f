"""Ten thousand random policies and limits: no decision breaks a limit, order and ties change nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.clusters import ClusterMap
from routing.costs import LatencyModel, LengthModel
from routing.decisions import Decisions, Prompts, decide
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError, NoCandidateError, UnknownPriceError
from routing.llms import LLM, Price
from routing.policies import (
    Ceiling,
    EquivalentTo,
    Exploration,
    Fixed,
    Lagrangian,
    Mixture,
    Policy,
    QualityFloor,
    Threshold,
    Weighted,
    preset_policy,
)
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions

#: Prompts of one example, each with its own limits: 200 examples of 50 are ten thousand pairs.
PROMPTS_EACH = 50
NAMES = ("a", "b", "c", "d", "e")
ABILITIES = ("tools", "vision", "json", "language:de", "language:en")

RNG = np.random.default_rng(11)


def unit_rows(n: int) -> np.ndarray:
    """Random directions."""
    rows = RNG.normal(size=(n, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


MAP = ClusterMap(
    centroids=unit_rows(7),
    sizes=(3, 4),
    temperature=8.0,
    fingerprint=Fingerprint(name="random", dimension=6, precision="f32", max_length=1, checksum=""),
)
EMBEDDINGS = unit_rows(PROMPTS_EACH)
#: Few values, so that errors and costs tie often.
RATES = RNG.choice([0.0, 0.25, 0.5, 1.0], (7, 5))
DEVIATIONS = RNG.choice([0.0, 0.1], (7, 5))
LLMS = tuple(
    LLM(
        name=name,
        price=Price(
            input_usd_per_mtok=float(RNG.choice([0.0, 1.0])),
            output_usd_per_mtok=float(RNG.choice([1.0, 20.0])),
        ),
        context_length=int(RNG.choice([500, 4000])) if name != "c" else None,
        capabilities=frozenset(ability for ability in ABILITIES if RNG.random() < 0.7),
    )
    for name in NAMES
)
LENGTHS = LengthModel(
    levels=RNG.normal(5, 0.5, 5),
    slopes=np.full(5, 0.1),
    offsets=RNG.normal(0, 0.3, (7, 5)),
    spreads=np.full(5, 0.5),
    smears=np.full(5, np.exp(0.125)),
)
LATENCIES = LatencyModel(levels=RNG.normal(-3, 1, 5), slopes=np.full(5, 0.7), spreads=np.full(5, 0.4))


def make_snapshot(order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Snapshot:
    """Five LLMs as a registry would hand them over, whatever the order they were registered in."""
    columns = sorted(order, key=lambda column: LLMS[column].name)
    return Snapshot(
        cluster_map=MAP,
        llms=tuple(LLMS[column] for column in columns),
        error_rates=RATES[:, columns],
        error_deviations=DEVIATIONS[:, columns],
        output_tokens=np.full(5, 100.0),
        versions=Versions(error_rates="1", prices="1"),
        lengths=LENGTHS,
        latencies=LATENCIES,
    )


SNAPSHOT = make_snapshot()
_NAMES = st.sampled_from(NAMES)
_SHARES = st.floats(0, 1)
_PLAIN = st.one_of(
    st.builds(Lagrangian, st.sampled_from([0.0, 1.0, 50.0, 1e4, 1e300, np.inf])),
    st.builds(QualityFloor, margin=_SHARES, confidence=st.sampled_from([0.5, 0.9])),
    st.builds(EquivalentTo, reference=_NAMES, margin=_SHARES, confidence=st.sampled_from([0.5, 0.95])),
    st.builds(Fixed, _NAMES),
    st.builds(
        Threshold, weak=_NAMES, strong=_NAMES, threshold=st.floats(-1, 1), per_usd=st.booleans()
    ).filter(lambda policy: policy.weak != policy.strong),
    st.builds(Weighted, st.dictionaries(_NAMES, st.floats(0.1, 5), min_size=1)),
    st.sampled_from(["performance-first", "balanced", "cost-first"]).map(
        lambda name: preset_policy(name, reference_cost_usd=0.002)
    ),
)
POLICIES = st.one_of(
    _PLAIN,
    st.builds(Mixture, first=_PLAIN, second=_PLAIN, share=_SHARES),
    st.builds(Exploration, policy=_PLAIN, share=_SHARES, band=_SHARES),
    st.builds(Ceiling, policy=_PLAIN, remaining_usd=st.sampled_from([0.0, 0.001, 0.05, 10.0])),
)


def draw_limits(rng: np.random.Generator) -> Limits:
    """Limits of which each is set in about a third of the draws, contradictions included."""

    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.35 else None

    def some(names: tuple[str, ...], share: float) -> frozenset[str]:
        return frozenset(name for name in names if rng.random() < share)

    return Limits(
        max_cost_usd=maybe(float(rng.choice([0.0, 1e-4, 1e-3, 5e-3, 1.0]))),
        max_error=maybe(float(rng.choice([0.0, 0.25, 0.5, 1.0]))),
        candidates=maybe(some((*NAMES, "nobody"), 0.5)),
        excluded=maybe(some((*NAMES, "nobody"), 0.3)) or frozenset(),
        capabilities=maybe(some(ABILITIES[:3], 0.3)) or frozenset(),
        languages=maybe(some(("de", "en", "fr"), 0.3)) or frozenset(),
        max_output_tokens=maybe(int(rng.integers(1, 3000))),
        max_seconds=maybe(float(rng.choice([-1.0, 0.5, 3.0, 60.0]))),
    )


def keeps(wish: Limits, llm: LLM, decisions: Decisions, row: int, *, tokens: float) -> bool:
    """Whether sending the prompt of this row to the LLM keeps each limit, asked one by one."""
    column = decisions.names.index(llm.name)
    room = np.inf if llm.context_length is None else llm.context_length
    seconds = decisions.seconds
    assert seconds is not None
    return (
        (wish.candidates is None or llm.name in wish.candidates)
        and llm.name not in wish.excluded
        and wish.capabilities <= llm.capabilities
        and all(f"language:{language}" in llm.capabilities for language in wish.languages)
        and tokens + (wish.max_output_tokens or 1) <= room
        and (wish.max_seconds is None or 0 < wish.max_seconds >= seconds[row, column])
        and (wish.max_cost_usd is None or decisions.ceilings[row, column] <= wish.max_cost_usd)
        and (wish.max_error is None or decisions.errors[row, column] <= wish.max_error)
    )


@given(policy=POLICIES, seed=st.integers(0, 2**32 - 1), order=st.permutations(range(5)))
@settings(max_examples=200)
def test_ten_thousand_decisions_break_no_limit(policy: Policy, seed: int, order: list[int]) -> None:
    """Fifty prompts with limits of their own under one policy, two hundred times.

    What is chosen keeps every limit, what was removed breaks one, an empty set is the documented error, and
    LLMs that were registered in another order are chosen alike, with equal bits.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 5000, PROMPTS_EACH).astype(float)
    limits = [draw_limits(rng) for _ in range(PROMPTS_EACH)]
    prompts = Prompts(embeddings=EMBEDDINGS, input_tokens=tokens, limits=limits)

    found = decide(prompts, SNAPSHOT, policy, rng=np.random.default_rng(seed))
    again = decide(prompts, make_snapshot(tuple(order)), policy, rng=np.random.default_rng(seed))

    for row, wish in enumerate(limits):
        allowed = {llm.name for llm in LLMS if keeps(wish, llm, found, row, tokens=tokens[row])}
        assert set(NAMES) - set(found.removed(row)) == allowed
        chosen = found.llm(row)
        assert chosen is None or chosen in allowed
        if not allowed:
            with pytest.raises(NoCandidateError) as caught:
                found.require_llm(row)
            assert set(caught.value.removed) == set(NAMES)
        elif chosen is not None:
            assert found.propensities[row] > 0
    if isinstance(policy, Ceiling):
        assert np.nansum(found.predicted_costs) <= policy.remaining_usd * (1 + 1e-12)
    for field in ("llms", "propensities", "predicted_errors", "predicted_costs"):
        assert getattr(again, field).tobytes() == getattr(found, field).tobytes()


def test_ties_go_to_the_cheaper_then_to_the_name() -> None:
    """Equal errors: b and c cost the same and less than a; b comes first."""
    prices = {"a": 3.0, "b": 1.0, "c": 1.0}
    snapshot = Snapshot(
        cluster_map=MAP,
        llms=tuple(
            LLM(name=name, price=Price(input_usd_per_mtok=price, output_usd_per_mtok=price))
            for name, price in prices.items()
        ),
        error_rates=np.full((7, 3), 0.5),
        output_tokens=np.full(3, 100.0),
        versions=Versions(error_rates="1", prices="1"),
    )
    prompts = Prompts(embeddings=EMBEDDINGS[:1], input_tokens=np.array([10.0]))

    for policy in (Lagrangian(0.0), Lagrangian(10.0), Lagrangian(np.inf), QualityFloor(margin=0.1)):
        assert decide(prompts, snapshot, policy, rng=RNG).llm(0) == "b"


def test_no_llms_at_all_is_the_documented_error() -> None:
    """An empty registry removes nobody and leaves nobody."""
    empty = Snapshot(
        cluster_map=MAP,
        llms=(),
        error_rates=np.empty((7, 0)),
        output_tokens=np.empty(0),
        versions=Versions(error_rates="1", prices="1"),
    )
    prompts = Prompts(embeddings=EMBEDDINGS[:1], input_tokens=np.array([10.0]))

    with pytest.raises(NoCandidateError, match="no LLM is registered"):
        decide(prompts, empty, Lagrangian(1.0), rng=RNG).require_llm(0)


def test_contradictory_limits_name_what_removed_each() -> None:
    """Only a and b, but not a, and b must cost nothing: none is left, and each has its reason."""
    limits = Limits(
        candidates=frozenset({"a", "b"}), excluded=frozenset({"a"}), max_cost_usd=0.0, max_output_tokens=10
    )
    prompts = Prompts(embeddings=EMBEDDINGS[:1], input_tokens=np.array([100.0]), limits=[limits])

    with pytest.raises(NoCandidateError) as caught:
        decide(prompts, SNAPSHOT, Lagrangian(1.0), rng=RNG).require_llm(0)

    assert caught.value.removed["a"] == "excluded"
    assert caught.value.removed["b"] == "max_cost"
    assert {caught.value.removed[name] for name in "cde"} == {"candidates"}


@pytest.mark.parametrize(
    "impossible",
    [
        {"max_cost_usd": -1.0},
        {"max_cost_usd": np.nan},
        {"max_error": 1.5},
        {"max_output_tokens": 0},
        {"max_seconds": np.nan},
    ],
)
def test_impossible_limits_are_refused(impossible: dict[str, Any]) -> None:
    """They are errors when they are stated, not when they are asked."""
    with pytest.raises(InvalidInputError, match=next(iter(impossible))):
        Limits(**impossible)


def test_price_that_vanished_stops_the_decision() -> None:
    """An unknown price is an error before any prompt is sent, never 0."""
    lost = replace(LLMS[0], price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0))
    object.__setattr__(lost.price, "output_usd_per_mtok", None)

    with pytest.raises(UnknownPriceError, match="'a' has no output_usd_per_mtok"):
        Snapshot(
            cluster_map=MAP,
            llms=(lost, *LLMS[1:]),
            error_rates=RATES,
            output_tokens=np.full(5, 100.0),
            versions=Versions(error_rates="1", prices="1"),
        )
