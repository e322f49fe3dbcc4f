"""Limits before score: each limit alone, their order, and that none is ever broken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.llms import LLM, Price
from routing.policies import allowed_llms
from routing.requests import Limits

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
LLMS = (
    LLM(name="a", price=PRICE, context_length=100, capabilities=frozenset({"tools"})),
    LLM(name="b", price=PRICE, context_length=1000),
    LLM(name="c", price=PRICE, capabilities=frozenset({"tools", "vision", "language:de", "language:en"})),
)
NAMES = ("a", "b", "c")
ERRORS, COSTS = np.array([[0.1, 0.2, 0.3]]), np.array([[0.03, 0.02, 0.01]])
SECONDS = np.array([[1.0, 3.0, 2.0]])


def reasons(limits: Limits | None, *, tokens: float = 10.0) -> dict[str, str]:
    """What one prompt's limits remove."""
    allowed = allowed_llms(
        None if limits is None else [limits],
        LLMS,
        input_tokens=np.array([tokens]),
        errors=ERRORS,
        ceilings=COSTS,
        seconds=SECONDS,
    )
    return allowed.reasons(0, NAMES)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (None, {}),
        (Limits(), {}),
        (Limits(candidates=frozenset({"a", "c"})), {"b": "candidates"}),
        (Limits(candidates=frozenset({"nobody"})), dict.fromkeys(NAMES, "candidates")),
        (Limits(candidates=frozenset()), dict.fromkeys(NAMES, "candidates")),
        (Limits(excluded=frozenset({"c", "nobody"})), {"c": "excluded"}),
        (Limits(capabilities=frozenset({"tools"})), {"b": "capabilities"}),
        (Limits(capabilities=frozenset({"tools", "vision"})), {"a": "capabilities", "b": "capabilities"}),
        (Limits(max_output_tokens=91), {"a": "context_length"}),
        (Limits(max_output_tokens=90), {}),
        (Limits(max_cost_usd=0.02), {"a": "max_cost"}),
        (Limits(languages=frozenset({"de"})), {"a": "languages", "b": "languages"}),
        (Limits(languages=frozenset({"de", "fr"})), dict.fromkeys(NAMES, "languages")),
        (Limits(max_seconds=2.0), {"b": "deadline"}),
        (Limits(max_seconds=3.0), {}),
        (Limits(max_seconds=0.0), dict.fromkeys(NAMES, "deadline")),
        (Limits(max_seconds=-5.0), dict.fromkeys(NAMES, "deadline")),
        (Limits(max_error=0.1), {"b": "max_error", "c": "max_error"}),
        (Limits(max_error=0.0), dict.fromkeys(NAMES, "max_error")),
    ],
)
def test_each_limit_alone(limits: Limits | None, expected: dict[str, str]) -> None:
    """One limit removes exactly those that break it; meeting it exactly is keeping it."""
    assert reasons(limits) == expected


def test_prompt_itself_must_fit_the_context() -> None:
    """A prompt of 100 tokens leaves a context of 100 no room for an answer, limits or none."""
    assert reasons(None, tokens=100) == {"a": "context_length"}
    assert reasons(None, tokens=99) == {}


def test_first_limit_that_removes_is_the_reason() -> None:
    """Several limits: the reason is the first in the order candidates, ..., max_error."""
    limits = Limits(
        candidates=frozenset({"a", "b"}), capabilities=frozenset({"tools"}), max_cost_usd=0.0, max_error=0.0
    )

    assert reasons(limits) == {"a": "max_cost", "b": "capabilities", "c": "candidates"}


def test_deadline_without_latencies_removes_only_when_time_is_up() -> None:
    """Nothing is known of seconds, so nothing is removed; but no LLM answers in no time."""
    left = [Limits(max_seconds=1e-3), Limits(max_seconds=0.0)]
    allowed = allowed_llms(
        left, LLMS, input_tokens=np.ones(2), errors=np.tile(ERRORS, (2, 1)), ceilings=np.tile(COSTS, (2, 1))
    )

    assert allowed.mask.tolist() == [[True] * 3, [False] * 3]


_NAMES = st.frozensets(st.sampled_from(["a", "b", "c", "nobody"]))
_LIMITS = st.builds(
    Limits,
    max_cost_usd=st.none() | st.sampled_from([0.0, 0.01, 0.02, 0.05]),
    max_error=st.none() | st.sampled_from([0.0, 0.15, 0.3, 1.0]),
    candidates=st.none() | _NAMES,
    excluded=_NAMES,
    capabilities=st.frozensets(st.sampled_from(["tools", "vision", "json"])),
    languages=st.frozensets(st.sampled_from(["de", "en", "fr"]), max_size=1),
    max_output_tokens=st.none() | st.integers(1, 2000),
    max_seconds=st.none() | st.sampled_from([-1.0, 0.0, 1.0, 2.5, 60.0]),
)


@given(limits=st.lists(_LIMITS, min_size=1, max_size=8), tokens=st.floats(0, 2000))
@settings(max_examples=300)
def test_no_limit_is_ever_broken(limits: list[Limits], tokens: float) -> None:
    """What stays keeps every limit, and what goes breaks the one that is named for it."""
    n = len(limits)
    errors, costs, seconds = (np.tile(values, (n, 1)) for values in (ERRORS, COSTS, SECONDS))
    allowed = allowed_llms(
        limits, LLMS, input_tokens=np.full(n, tokens), errors=errors, ceilings=costs, seconds=seconds
    )

    for row, wish in enumerate(limits):
        removed = allowed.reasons(row, NAMES)
        for column, llm in enumerate(LLMS):
            room = np.inf if llm.context_length is None else llm.context_length
            keeps = {
                "candidates": wish.candidates is None or llm.name in wish.candidates,
                "excluded": llm.name not in wish.excluded,
                "capabilities": wish.capabilities <= llm.capabilities,
                "languages": {f"language:{one}" for one in wish.languages} <= llm.capabilities,
                "context_length": tokens + (wish.max_output_tokens or 1) <= room,
                "deadline": wish.max_seconds is None or 0 < wish.max_seconds >= seconds[row, column],
                "max_cost": wish.max_cost_usd is None or costs[row, column] <= wish.max_cost_usd,
                "max_error": wish.max_error is None or errors[row, column] <= wish.max_error,
            }
            broken = [limit for limit, kept in keeps.items() if not kept]
            assert removed.get(llm.name) == (broken[0] if broken else None)
            assert allowed.mask[row, column] == (not broken)


@given(one=_LIMITS, other=_LIMITS, tokens=st.floats(0, 2000))
@settings(max_examples=200)
def test_tightened_limits_keep_both(one: Limits, other: Limits, tokens: float) -> None:
    """What two limits together leave is what each of them leaves, in either order."""

    def left(wish: Limits) -> list[bool]:
        allowed = allowed_llms(
            [wish],
            LLMS,
            input_tokens=np.array([tokens]),
            errors=ERRORS,
            ceilings=COSTS,
            seconds=SECONDS,
        )
        return [bool(stays) for stays in allowed.mask[0]]

    both = one.tightened(other)

    assert left(both) == [first and second for first, second in zip(left(one), left(other), strict=True)]
    assert both == other.tightened(one)


def test_no_prompts_and_no_llms() -> None:
    """Empty is a shape like any other."""
    nobody = allowed_llms(
        [Limits(candidates=frozenset({"a"}))],
        [],
        input_tokens=np.ones(1),
        errors=np.empty((1, 0)),
        ceilings=np.empty((1, 0)),
    )
    nothing = allowed_llms(
        [], LLMS, input_tokens=np.empty(0), errors=np.empty((0, 3)), ceilings=np.empty((0, 3))
    )

    assert nobody.mask.shape == (1, 0)
    assert nothing.mask.shape == (0, 3)
