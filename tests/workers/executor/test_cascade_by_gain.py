"""Cascades of more than two LLMs: whoever adds most to the answer for its cost is asked next."""

import json
from typing import Any

import pytest
from scripted_calls import (
    USAGE,
    Bench,
    Script,
    always,
    answer,
    as_message,
    body_of,
    calls_of,
    dispatch,
    headers_of,
)

from workers.calls.endpoints import Answer
from workers.calls.errors import CallError
from workers.messages import Record

#: After an answer that is right with chance .5, at 5 of error per USD: b gains .5 * .6 - 5 * .02 = .2 and c
#: .5 * .9 - 5 * .06 = .15. At 1 it is .28 and .39.
CANDIDATES = [["b", 0.4, 0.02], ["c", 0.1, 0.06]]


def sure(chance: float, text: str = "yes") -> Answer:
    """An answer whose one token has a log probability of ``chance - 1``: the default calibration."""
    choice = {"message": {"content": text}, "logprobs": {"content": [{"logprob": chance - 1.0}]}}
    return Answer(value=json.dumps({"choices": [choice]}).encode(), usage=USAGE)


def rule(**changes: Any) -> str:
    """A rule by which nothing but gain decides."""
    return json.dumps({"accept_at": 1.0, "error_per_usd": 5.0, "candidates": CANDIDATES, **changes})


def cascade(scripts: dict[str, Script], text: str, *, fallbacks: str = "c,b", **headers: str) -> Record:
    """Hand a dispatch on until there is a reply, and give that."""
    bench = Bench(scripts)
    message = dispatch(cascade=text, fallbacks=fallbacks, **headers)
    while True:
        [[first, *rest]] = bench.handle(message)
        if rest:
            return first
        message = as_message(first)


def asked(reply: Record) -> list[str]:
    """Who was called, in order."""
    return [call[0] for call in calls_of(reply)]


@pytest.mark.parametrize(("error_per_usd", "following"), [(5.0, "b"), (1.0, "c"), (20.0, None)])
def test_the_next_is_the_one_that_gains_most(error_per_usd: float, following: str | None) -> None:
    """Whatever their order; where nobody gains anything the answer at hand is taken."""
    reply = cascade(
        {"a": always(sure(0.5)), "b": always(sure(1.0)), "c": always(sure(1.0))},
        rule(error_per_usd=error_per_usd),
    )

    assert asked(reply) == (["a"] if following is None else ["a", following])


def test_each_answer_moves_the_gain_of_the_rest() -> None:
    """After .5 b is asked; after its .7, c gains .3 * .9 - .3 < 0: b's answer is taken, all costs on it."""
    reply = cascade({"a": always(sure(0.5)), "b": always(sure(0.7)), "c": always(answer())}, rule())

    assert asked(reply) == ["a", "b"]
    assert headers_of(reply)["llm"] == "b"
    assert float(headers_of(reply)["cost-usd"]) == pytest.approx(0.06)


def test_the_likeliest_answer_is_given() -> None:
    """Of .5 and then .2 it is the first, as the decided LLM's own; nothing about it is degraded."""
    reply = cascade(
        {"a": always(sure(0.5, "first")), "b": always(sure(0.2, "second")), "c": always(sure(0.1))}, rule()
    )
    headers = headers_of(reply)

    assert asked(reply) == ["a", "b", "c"]
    assert body_of(reply)["choices"][0]["message"]["content"] == "first"
    assert (headers["llm"], headers["decision-id"]) == ("a", "token")
    assert float(headers["chance"]) == pytest.approx(0.5)
    assert "degraded" not in headers


def test_an_unknown_chance_counts_as_none() -> None:
    """An endpoint that tells nothing: b gains .6 - .1 = .5, c .9 - .3 = .6."""
    reply = cascade({"a": always(answer()), "b": always(sure(1.0)), "c": always(sure(1.0))}, rule())

    assert asked(reply) == ["a", "c"]


def test_who_fails_is_followed_by_gain_too() -> None:
    """With no answer at hand c gains .6 and b .5; without c, b."""
    broken = always(CallError("auth", "no"))
    good = always(sure(1.0))

    assert asked(cascade({"a": broken, "b": good, "c": good}, rule())) == ["a", "c"]
    assert asked(cascade({"a": broken, "b": good, "c": broken}, rule())) == ["a", "c", "b"]


def test_an_answer_at_hand_stands_where_nobody_left_gains() -> None:
    """After .7 at lambda 2 c is asked (.27 - .12); it fails, and b would gain .18 - .2 < 0."""
    reply = cascade(
        {"a": always(sure(0.7)), "b": always(sure(1.0)), "c": always(CallError("auth", "no"))},
        rule(error_per_usd=2.0, candidates=[["b", 0.4, 0.1], ["c", 0.1, 0.06]]),
    )

    assert asked(reply) == ["a", "c"]
    assert (headers_of(reply)["llm"], headers_of(reply)["degraded"]) == ("a", "held_answer")


def test_who_only_stands_in_is_not_asked_for_more() -> None:
    """A spare LLM is for failures; an unsure answer of the last in the cascade is taken."""
    scripts = {"a": always(sure(0.5)), "spare": always(sure(1.0))}
    ordered = json.dumps({"accept_at": 0.8, "candidates": [["b", 0.4, 0.02]]})

    assert asked(cascade(scripts, ordered, fallbacks="spare")) == ["a"]
    assert asked(cascade(scripts | {"a": always(CallError("auth", "no"))}, ordered, fallbacks="spare")) == [
        "a",
        "spare",
    ]


def test_who_has_left_is_passed_over() -> None:
    """Of b, which nobody knows any more, and c, c is asked."""
    reply = cascade({"a": always(sure(0.5)), "c": always(sure(1.0))}, rule())

    assert asked(reply) == ["a", "c"]


def test_each_llm_has_its_own_curve() -> None:
    """The same log probability is .5 of a, at which c is asked, and .95 of b, which is accepted."""
    curves = {
        "a": {"confidences": [-0.5], "chances": [0.5]},
        "b": {"confidences": [-0.5], "chances": [0.95]},
    }
    text = json.dumps({"accept_at": 0.9, "curves": curves})

    assert asked(cascade({"a": always(sure(0.5)), "b": always(sure(0.5))}, text, fallbacks="b")) == ["a", "b"]
    assert asked(cascade({"b": always(sure(0.5)), "a": always(answer())}, text, fallbacks="a", llm="b")) == [
        "b"
    ]
