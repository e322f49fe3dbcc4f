"""What a policy's body may say, and the one sentence that each mistake gets."""

from contextlib import suppress
from typing import Any

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
    QualityFloor,
    Threshold,
    Weighted,
)
from routing.policies.cascade import CascadeStart
from workers.cascades import CascadeSpec, Curve, Scorer
from workers.policies import Budget, build_policy, check_llms, read_policy

#: From half a chance at -1 to certainty at 0.
CURVE = {"confidences": [-1.0, 0.0], "chances": [0.5, 1.0]}
SCORER = {"base_url": "http://scorer/v1", "model": "judge", "input_price": 1, "output_price": 2}
TWO = {"kind": "cascade", "llms": ["small", "large"], "accept": 0.8, "calibration": CURVE}
THREE = {"kind": "cascade", "llms": ["a", "b", "c"], "error_per_usd": 40, "calibration": CURVE}
KINDS = (
    "cascade",
    "lagrangian",
    "quality-floor",
    "equivalent-to",
    "budget",
    "threshold",
    "fixed",
    "weighted",
    "performance-first",
    "balanced",
    "cost-first",
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"kind": "lagrangian", "error_per_usd": 40}, Lagrangian(40.0)),
        # An error of .1 is worth a call at .002 USD: .1 / .002 = 50 per USD.
        ({"kind": "lagrangian", "error_per_reference": 0.1, "reference_cost_usd": 0.002}, Lagrangian(50.0)),
        ({"kind": "quality-floor", "tolerance": 0.02}, QualityFloor(margin=0.02)),
        ({"kind": "quality-floor", "d": 0.02, "over": "prompt"}, QualityFloor(margin=0.02)),
        ({"kind": "quality-floor", "d": 0.02, "over": "traffic", "error_per_usd": 90}, Lagrangian(90.0)),
        (
            {"kind": "quality-floor", "tolerance": 0.02, "on": "upper"},
            QualityFloor(margin=0.02, confidence=0.95),
        ),
        (
            {"kind": "equivalent-to", "reference": "large", "delta": 0.03, "confidence": 0.9},
            EquivalentTo(reference="large", margin=0.03, confidence=0.9),
        ),
        ({"kind": "budget", "usd": 20, "error_per_usd": 5}, Lagrangian(5.0)),
        (
            {"kind": "threshold", "strong": "large", "weak": "small", "threshold": 0.1, "per_usd": True},
            Threshold(strong="large", weak="small", threshold=0.1, per_usd=True),
        ),
        ({"kind": "fixed", "llm": "large"}, Fixed("large")),
        ({"kind": "weighted", "weights": {"large": 1, "small": 9}}, Weighted({"large": 1.0, "small": 9.0})),
        (TWO, CascadeStart(llms=("small", "large"))),
        (THREE, CascadeStart(llms=("a", "b", "c"), error_per_usd=40.0)),
        # Weights 1 and 0, .5 and .5, .2 and .8 of performance and cost, on .002 USD.
        ({"kind": "performance-first", "reference_cost_usd": 0.002}, Lagrangian(0.0)),
        ({"kind": "balanced", "reference_cost_usd": 0.002}, Lagrangian(500.0)),
        ({"kind": "cost-first", "reference_cost_usd": 0.002}, Lagrangian(2000.0)),
    ],
)
def test_every_kind_is_built(body: dict[str, Any], expected: object) -> None:
    """A body of each kind gives the policy it describes."""
    assert build_policy("p", body) == expected


def test_a_cascade_says_whom_it_asks_and_what_it_takes() -> None:
    """Its rule, without the candidates that each prompt has of its own."""
    found = read_policy("p", {**TWO, "abstain": 0.1, "confidence": "first-margin", "fallbacks": ["spare"]})

    assert found.cascade is not None
    assert found.cascade.llms == ("small", "large")
    assert found.cascade.spec == CascadeSpec(
        accept_at=0.8,
        abstain_below=0.1,
        measure="first-margin",
        confidences=(-1.0, 0.0),
        chances=(0.5, 1.0),
    )
    assert (found.llms, found.fallbacks) == ({"small", "large"}, ("spare",))


def test_each_llm_may_have_a_curve_of_its_own() -> None:
    """In a cascade of two the last needs none: nobody is left to be asked instead."""
    found = read_policy("p", {**TWO, "calibration": {"small": CURVE}}).cascade

    assert found is not None
    assert found.spec.curves == {"small": Curve(confidences=(-1.0, 0.0), chances=(0.5, 1.0))}
    assert found.spec.calibration("large") is None


def test_a_scorer_is_taken_at_its_word() -> None:
    """A chance from it needs no calibration; its key is referred to."""
    body = {key: value for key, value in TWO.items() if key != "calibration"}
    found = read_policy("p", {**body, "confidence": "scorer", "scorer": {**SCORER, "api_key": "env:KEY"}})

    assert found.cascade is not None
    assert found.cascade.spec.scorer == Scorer(
        base_url="http://scorer/v1",
        model="judge",
        api_key_ref="env:KEY",
        input_usd_per_mtok=1.0,
        output_usd_per_mtok=2.0,
    )
    assert found.cascade.spec.calibration("small").chance(0.25) == 0.25  # type: ignore[union-attr]


def test_any_policy_may_keep_answers_and_say_what_becomes_of_a_failure() -> None:
    """Unless it does, nothing is kept and a failure is a reply."""
    plain = read_policy("p", {"kind": "fixed", "llm": "a"})
    found = read_policy("p", {"kind": "fixed", "llm": "a", "cache_seconds": 60, "on_failure": "both"})

    assert (plain.cache_seconds, plain.on_failure) == (0.0, "reply")
    assert (found.cache_seconds, found.on_failure) == (60.0, "both")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"llms": ["small"]}, "llms must name two LLMs or more"),
        ({"llms": ["a", "b", "c"]}, "with more than two LLMs give error_per_usd"),
        ({"accept": None}, "accept is None: give a number"),
        ({"accept": 2}, "accept is 2: give a number of at least 0 and at most 1"),
        ({"abstain": 0.9}, "abstain is 0.9: give a number of at least 0 and at most 0.8"),
        ({"confidence": "feeling"}, "confidence is 'feeling': known are mean-logprob, first-margin, scorer"),
        ({"confidence": "scorer"}, "scorer says where the scorer is"),
        ({"scorer": SCORER}, "scorer says where the scorer is"),
        ({"scorer": {"base_url": "x"}, "confidence": "scorer"}, "base_url must begin with http"),
        ({"scorer": {**SCORER, "api_key": "sk-1"}, "confidence": "scorer"}, "never given"),
        ({"scorer": {**SCORER, "usd": 1}, "confidence": "scorer"}, "policy p, scorer: unknown key 'usd'"),
        ({"calibration": {"confidences": [0, 1]}}, "policy p, calibration: chances is missing"),
        ({"calibration": {**CURVE, "chances": [1, 0]}}, "calibration: must ascend"),
        ({"calibration": {"large": CURVE}}, "calibration lacks small"),
        (
            {"calibration": {"other": CURVE}},
            "policy p, calibration: unknown key 'other'; known: large, small",
        ),
        ({"calibration": {"confidences": [*range(999)], "chances": [0.5] * 999}}, "give fewer knots"),
        ({"calibration": {**CURVE, "chances": ["x", 1]}}, r"chances\[0\] is 'x': give a number"),
        ({"accept_at": 1}, "unknown key 'accept_at'"),
        ({"cache_seconds": -1}, "cache_seconds is -1: give a number of at least 0"),
        ({"on_failure": "shrug"}, "on_failure is 'shrug': known are reply, dead-letter, both"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    """Each mistake gets one sentence that names policy and key."""
    with pytest.raises(InvalidInputError, match=sentence):
        read_policy("p", {**TWO, **changes})


def test_a_cascade_needs_accept_or_lambda_and_a_calibration() -> None:
    """Without the one nothing is ever enough; without the other a log probability says nothing."""
    for missing, sentence in (("accept", "give accept"), ("calibration", "calibration is missing")):
        with pytest.raises(InvalidInputError, match=sentence):
            read_policy("p", {key: value for key, value in TWO.items() if key != missing})


@pytest.mark.parametrize(("per", "seconds"), [("hour", 3_600.0), ("day", 86_400.0)])
def test_a_budget_says_what_is_paced(per: str, seconds: float) -> None:
    """USD for an hour or a day, with the lambda it starts from."""
    found = read_policy("p", {"kind": "budget", "usd": 20, "per": per})
    same = read_policy("p", {"kind": "budget", f"usd_per_{per}": 20})

    assert found.budget == same.budget == Budget(usd=20.0, period_s=seconds)


def test_what_a_policy_names_is_known() -> None:
    """The LLMs it cannot do without, and those that stand in."""
    found = read_policy(
        "p", {"kind": "threshold", "strong": "a", "weak": "b", "threshold": 0, "fallbacks": ["c"]}
    )

    assert found.llms == {"a", "b"}
    assert found.fallbacks == ("c",)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "policy p: kind is missing: known are balanced, budget"),
        ({"kind": ["x"]}, r"policy p: kind is \['x'\]: known are"),
        (
            {"kind": "fixed", "lm": "a"},
            "policy p: unknown key 'lm'; known: cache_seconds, explore, fallbacks, kind, llm, on_failure",
        ),
        ({"kind": "fixed"}, "policy p: llm is missing"),
        ({"kind": "fixed", "llm": ""}, "policy p: llm is '': give the name of an LLM"),
        ({"kind": "lagrangian"}, "policy p: give error_per_usd, or error_per_reference"),
        ({"kind": "lagrangian", "error_per_usd": -1}, "error_per_usd is -1: give a number of at least 0"),
        ({"kind": "lagrangian", "error_per_usd": float("nan")}, "error_per_usd is nan: give a number"),
        ({"kind": "lagrangian", "error_per_usd": True}, "error_per_usd is True: give a number"),
        ({"kind": "lagrangian", "error_per_usd": 10**5000}, "a number too long to show: give a number"),
        (
            {"kind": "lagrangian", "error_per_usd": 1, "reference_cost_usd": 1},
            "belongs to error_per_reference",
        ),
        (
            {"kind": "quality-floor", "tolerance": 2},
            "tolerance is 2: give a number of at least 0 and at most 1",
        ),
        ({"kind": "quality-floor", "tolerance": 0, "on": "top"}, "on is 'top': known are mean, upper"),
        ({"kind": "quality-floor", "tolerance": 0, "confidence": 0.9}, "confidence belongs to `on: upper`"),
        ({"kind": "quality-floor", "d": 0, "over": "traffic"}, "--outcomes DIR --live OUT` calibrates it"),
        ({"kind": "quality-floor", "d": 0, "error_per_usd": 1}, "error_per_usd belongs to `over: traffic`"),
        (
            {"kind": "quality-floor", "d": 0, "over": "traffic", "error_per_usd": -1},
            "error_per_usd is -1: give a number of at least 0",
        ),
        ({"kind": "quality-floor", "d": 0, "tolerance": 0}, r"give tolerance \(or, in its place, d\)"),
        ({"kind": "budget"}, r"give usd \(or, in its place, usd_per_hour or usd_per_day\)"),
        ({"kind": "budget", "usd_per_day": 1, "per": "day"}, "usd_per_day says it all"),
        ({"kind": "budget", "usd": 0}, "usd is 0: give a number above 0"),
        ({"kind": "budget", "usd": 1, "per": "week"}, "per is 'week': known are hour, day"),
        ({"kind": "threshold", "strong": "a", "weak": "a", "threshold": 0}, "strong and weak are both 'a'"),
        ({"kind": "weighted", "weights": {"a": 0}}, "weights gives no LLM a weight above 0"),
        (
            {"kind": "weighted", "weights": {"a": -1}},
            "policy p, weights: a is -1: give a number of at least 0",
        ),
        ({"kind": "weighted", "weights": {}}, "weights gives no LLM"),
        ({"kind": "balanced"}, "policy p: reference_cost_usd is missing"),
        ({"kind": "fixed", "llm": "a", "fallbacks": ["b", "b"]}, "names of LLMs, each once"),
    ],
)
def test_each_mistake_gets_one_sentence(body: dict[str, Any], sentence: str) -> None:
    """It names the policy, the key and what would do."""
    with pytest.raises(InvalidInputError, match=sentence):
        build_policy("p", body)


def test_an_llm_that_nobody_registered_is_named() -> None:
    """A policy is held against the LLMs there are, its fallbacks too."""
    found = read_policy("p", {"kind": "fixed", "llm": "large", "fallbacks": ["smal"]})

    check_llms("p", found, ["large", "smal"])
    with pytest.raises(InvalidInputError, match="policy p: no LLM is named 'smal'; registered: large, small"):
        check_llms("p", found, ["large", "small"])


def test_a_budget_in_force_has_a_lambda_and_a_ceiling() -> None:
    """5 USD are left: the prompt that wants 4 gets it, the next only what costs 1."""
    found = read_policy("p", {"kind": "budget", "usd": 20}).budget
    assert found is not None
    offered = Candidates(
        errors=np.tile([0.1, 0.5], (2, 1)),
        costs=np.tile([4.0, 1.0], (2, 1)),
        allowed=np.ones((2, 2), dtype=bool),
        names=("large", "small"),
    )

    policy = found.in_force(error_per_usd=0.0, remaining_usd=5.0)

    assert policy.choose(offered, rng=np.random.default_rng(0)).llms.tolist() == [0, 1]


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
_KEYS = st.sampled_from(
    ["tolerance", "on", "usd", "per", "llm", "weights", "reference", "delta", "error_per_usd", "fallbacks"]
)


@given(kind=st.sampled_from(KINDS) | _VALUES, rest=st.dictionaries(_KEYS | st.text(max_size=5), _VALUES))
@settings(max_examples=300)
def test_a_body_is_built_or_refused(kind: object, rest: dict[str, Any]) -> None:
    """Whatever a body holds, there is a policy or the documented error."""
    with suppress(InvalidInputError):
        build_policy("p", {"kind": kind, **rest})
