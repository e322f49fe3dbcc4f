"""Any declared policy under any limits: nothing that a limit forbids is ever chosen, and refusals say why."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.clusters import ClusterMap, Placement
from routing.costs import LatencyModel, LengthModel
from routing.decisions import decide_placed
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError, UnknownLLMError, UnknownPriceError
from routing.llms import LLM, Price
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions
from workers.policies import read_policy
from workers.router.banks import Books
from workers.router.deciding import Batch, decide_batch, refuse_choice
from workers.router.pacing import Pacers
from workers.router.views import NamedPolicy

NAMES = ("a", "b", "c", "d")
CAPABILITIES = ("tools", "vision", "language:de")
_LLM = st.sampled_from(NAMES)
_SHARE = st.floats(0, 1)
#: Of each policy, with limits of their own: 500 policies of 20 are ten thousand pairs.
_PROMPTS = 20

_BODIES = st.one_of(
    st.fixed_dictionaries({"kind": st.just("lagrangian"), "error_per_usd": st.floats(0, 1e6)}),
    st.fixed_dictionaries(
        {"kind": st.just("quality-floor"), "tolerance": _SHARE, "on": st.sampled_from(["mean", "upper"])}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("equivalent-to"),
            "reference": _LLM,
            "delta": _SHARE,
            "confidence": st.floats(0.5, 0.99),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("budget"), "usd": st.floats(1e-6, 1e-2)}),
    st.fixed_dictionaries(
        {
            "kind": st.just("threshold"),
            "strong": st.just("a"),
            "weak": st.sampled_from(NAMES[1:]),
            "threshold": st.floats(-1, 1),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("fixed"), "llm": _LLM}),
    st.fixed_dictionaries(
        {"kind": st.just("weighted"), "weights": st.dictionaries(_LLM, st.floats(0.1, 9), min_size=1)}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["performance-first", "balanced", "cost-first"]),
            "reference_cost_usd": st.floats(1e-6, 1),
        }
    ),
)
#: What any policy may say beside its kind's own keys.
_COMMON = st.fixed_dictionaries(
    {},
    optional={
        "fallbacks": st.lists(_LLM, unique=True, max_size=2),
        "explore": st.fixed_dictionaries({"share": _SHARE, "band": _SHARE}),
        "cache_seconds": st.integers(0, 60),
        "on_failure": st.sampled_from(["reply", "dead-letter", "both"]),
    },
)
_DECLARED = st.one_of(
    st.builds(lambda common, body: {**common, **body}, _COMMON, _BODIES),
    st.fixed_dictionaries(
        {
            "kind": st.just("cascade"),
            "llms": st.permutations(NAMES).map(lambda names: names[:2]),
            "accept": _SHARE,
            "calibration": st.just({"confidences": [-1.0, 0.0], "chances": [0.5, 1.0]}),
        }
    ),
)


def draw_limits(rng: np.random.Generator) -> Limits:
    """Limits of which each is set in about a third of the draws; they may contradict each other."""

    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.35 else None

    def some(names: tuple[str, ...], share: float) -> frozenset[str]:
        return frozenset(name for name in names if rng.random() < share)

    return Limits(
        max_cost_usd=maybe(float(rng.choice([0.0, 1e-4, 1e-3, 1e-2]))),
        max_error=maybe(float(rng.choice([0.0, 0.1, 0.3, 1.0]))),
        candidates=maybe(some((*NAMES, "gone"), 0.5)),
        excluded=maybe(some((*NAMES, "gone"), 0.3)) or frozenset(),
        capabilities=maybe(some(CAPABILITIES[:2], 0.5)) or frozenset(),
        languages=maybe(frozenset({"de"})) or frozenset(),
        max_output_tokens=maybe(int(rng.integers(1, 5_000))),
        max_seconds=maybe(float(rng.choice([-1.0, 0.0, 0.5, 3.0, 30.0]))),
    )


def make_snapshot(seed: int) -> Snapshot:
    """Make four LLMs at random, over three cells."""
    rng = np.random.default_rng(seed)
    return Snapshot(
        cluster_map=ClusterMap(
            centroids=np.eye(3, dtype=np.float32),
            sizes=(3,),
            temperature=16.0,
            fingerprint=Fingerprint(name="axes", dimension=3, precision="f32", max_length=8, checksum=""),
        ),
        llms=tuple(
            LLM(
                name=name,
                price=Price(
                    input_usd_per_mtok=float(rng.choice([0.0, 0.1, 1.0, 10.0])),
                    output_usd_per_mtok=float(rng.choice([0.0, 0.1, 1.0, 10.0])),
                    fixed_usd=float(rng.choice([0.0, 0.001])),
                ),
                context_length=int(rng.choice([500, 10_000])),
                capabilities=frozenset(rng.choice(CAPABILITIES, rng.integers(4), replace=False).tolist()),
            )
            for name in NAMES
        ),
        error_rates=rng.choice([0.0, 0.1, 0.3, 0.9], (3, 4)),
        error_deviations=rng.choice([0.0, 0.05], (3, 4)),
        output_tokens=np.full(4, 100.0),
        lengths=LengthModel(
            levels=rng.normal(5, 1, 4),
            slopes=np.full(4, 0.1),
            offsets=rng.normal(0, 0.3, (3, 4)),
            spreads=np.full(4, 0.5),
            smears=np.ones(4),
        ),
        latencies=LatencyModel(levels=rng.normal(-4, 1, 4), slopes=np.ones(4), spreads=np.full(4, 0.2)),
        versions=Versions(error_rates="1", prices="1"),
    )


def broken_limits(
    llm: LLM, limits: Limits, tokens: float, *, error: float, usd: float, s: float
) -> list[str]:
    """Name the limits that a call would break, in the order they are asked, each worked out anew."""
    declared = llm.capabilities
    most = limits.max_output_tokens or 1
    found = {
        "candidates": limits.candidates is not None and llm.name not in limits.candidates,
        "excluded": llm.name in limits.excluded,
        "capabilities": not limits.capabilities <= declared,
        "languages": not {f"language:{one}" for one in limits.languages} <= declared,
        "context_length": llm.context_length is not None and tokens + most > llm.context_length,
        "deadline": limits.max_seconds is not None and (limits.max_seconds <= 0 or s > limits.max_seconds),
        "max_cost": limits.max_cost_usd is not None and usd > limits.max_cost_usd,
        "max_error": limits.max_error is not None and error > limits.max_error,
    }
    return [name for name, broken in found.items() if broken]


@given(body=_DECLARED, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=500)
def test_no_decision_breaks_a_limit(body: dict[str, Any], seed: int) -> None:
    """10,000 pairs of a declared policy and limits: what is chosen keeps each limit, a budget its ceiling.

    Where nothing is chosen the refusal has a documented class, and where the limits left nothing it names the
    limit that removed each LLM, which is broken. A price that vanishes stops the decision with its own error.
    """
    rng = np.random.default_rng(seed)
    snapshot = make_snapshot(seed)
    placement = Placement(
        weights=np.eye(3, dtype=np.float32)[rng.integers(3, size=_PROMPTS)],
        cells=np.zeros((_PROMPTS, 1), dtype=np.int32),
    )
    tokens = rng.choice([1.0, 100.0, 499.0, 2_000.0], _PROMPTS)
    limits = [draw_limits(rng) for _ in range(_PROMPTS)]
    named = NamedPolicy.build("p", 1, body)

    batch = decide_batch(
        "p",
        named.declaration,
        lambda policy: decide_placed(placement, tokens, limits, snapshot, policy, rng=rng),
        pacers=Pacers(Books()),
        now=datetime(2027, 1, 31, tzinfo=UTC),
    )

    found = batch.decisions
    assert found.seconds is not None
    for row, column in enumerate(found.llms.tolist()):
        broken = [
            broken_limits(
                llm,
                limits[row],
                tokens[row],
                error=found.errors[row, place],
                usd=found.ceilings[row, place],
                s=found.seconds[row, place],
            )
            for place, llm in enumerate(snapshot.llms)
        ]
        removed = found.removed(row)
        assert {name: names[0] for name, names in zip(NAMES, broken, strict=True) if names} == removed
        if column >= 0:
            assert not broken[column]
            assert 0 < found.propensities[row] <= 1
        else:
            refused = refuse_choice(named, batch, row)
            assert refused.error_class in {"no_candidate", "budget_exhausted"}
            if len(removed) == len(NAMES):
                assert all(f"{name}: {limit}" in refused.sentence for name, limit in removed.items())
    if named.declaration.budget is not None:
        assert np.nansum(found.predicted_costs) <= named.declaration.budget.usd * (1 + 1e-12)
    lost = snapshot.llms[int(rng.integers(len(NAMES)))]
    object.__setattr__(lost.price, "output_usd_per_mtok", None)
    with pytest.raises(UnknownPriceError, match=f"'{lost.name}' has no output_usd_per_mtok"):
        replace(snapshot, versions=Versions(error_rates="2", prices="2"))


def test_what_contradicts_itself_leaves_nothing_and_says_so() -> None:
    """Allowed and denied at once, and a policy whose only LLM the limits removed."""
    snapshot, named = make_snapshot(0), NamedPolicy.build("p", 1, {"kind": "fixed", "llm": "a"})
    placement = Placement(weights=np.eye(3, dtype=np.float32)[[0, 1]], cells=np.zeros((2, 1), dtype=np.int32))
    limits = [
        Limits(candidates=frozenset({"a"}), excluded=frozenset({"a"})),
        Limits(excluded=frozenset({"a"})),
    ]

    found = decide_placed(
        placement,
        np.ones(2),
        limits,
        snapshot,
        named.declaration.policy,
        rng=np.random.default_rng(0),
    )

    assert found.llms.tolist() == [-1, -1]
    assert refuse_choice(named, Batch(decisions=found), 0).sentence == (
        "no LLM is left within the limits (a: excluded; b: candidates; c: candidates; d: candidates)"
    )
    assert refuse_choice(named, Batch(decisions=found), 1).sentence == (
        "policy p takes none of the LLMs that the limits leave, b, c, d (removed: a: excluded)"
    )


def test_an_unknown_price_or_llm_is_the_documented_error() -> None:
    """Never read as 0, never passed over."""
    declared = read_policy("p", {"kind": "fixed", "llm": "gone"})
    placement = Placement(weights=np.eye(3, dtype=np.float32)[[0]], cells=np.zeros((1, 1), dtype=np.int32))

    with pytest.raises(UnknownLLMError, match="no LLM is named 'gone'"):
        decide_placed(
            placement, np.ones(1), None, make_snapshot(0), declared.policy, rng=np.random.default_rng(0)
        )
    with pytest.raises(UnknownPriceError, match="has no input_usd_per_mtok"):
        Price(input_usd_per_mtok=float("nan"), output_usd_per_mtok=1.0)
    with pytest.raises(InvalidInputError, match="must be a finite number"):
        Price(input_usd_per_mtok=-1.0, output_usd_per_mtok=1.0)
