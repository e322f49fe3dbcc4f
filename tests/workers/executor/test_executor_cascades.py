"""A cascade: the cheap LLM's answer where it was sure, the next one's where not, all costs on the reply."""

import json
import math
from datetime import timedelta

import pytest
from scripted_calls import (
    NOW,
    USAGE,
    Bench,
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
from workers.errors import PoisonError

RULE = json.dumps({"accept_at": 0.8, "abstain_below": 0.1})


def sure(chance: float) -> Answer:
    """An answer whose two tokens have a mean log probability of ``chance - 1``: the default calibration."""
    tokens = [{"logprob": chance - 1.0}, {"logprob": chance - 1.0}]
    choice = {"message": {"role": "assistant", "content": "yes"}, "logprobs": {"content": tokens}}
    return Answer(value=json.dumps({"choices": [choice]}).encode(), usage=USAGE)


def test_a_sure_answer_is_taken() -> None:
    """At 0.9 nobody else is asked."""
    [[reply, _]] = Bench({"a": always(sure(0.9)), "b": always(answer())}).handle(
        dispatch(cascade=RULE, fallbacks="b")
    )

    assert float(headers_of(reply)["chance"]) == pytest.approx(0.9)
    assert headers_of(reply)["llm"] == "a"


def test_an_unsure_answer_is_passed_on_with_its_cost() -> None:
    """At 0.5 the next LLM answers, and the reply bills both: two times 0.03 USD."""
    bench = Bench({"a": always(sure(0.5)), "b": always(sure(0.3))})
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b"))
    [[reply, _]] = bench.handle(as_message(handed))

    assert [call[:2] for call in calls_of(reply)] == [("a", "ok"), ("b", "ok")]
    assert float(headers_of(reply)["cost-usd"]) == pytest.approx(0.06)
    assert "choices" in body_of(reply)  # the last LLM's is taken, sure or not


def test_a_hopeless_prompt_is_given_up() -> None:
    """At 0.05 the LLM abstains, and nobody dearer is asked."""
    [[reply, _]] = Bench({"a": always(sure(0.05)), "b": always(answer())}).handle(
        dispatch(cascade=RULE, fallbacks="b")
    )

    assert body_of(reply)["error"]["code"] == "abstained"


def test_without_log_probabilities_the_next_is_asked() -> None:
    """An endpoint that tells nothing is not trusted, unless it is the last."""
    bench = Bench({"a": always(answer()), "b": always(answer())})
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b"))
    [[reply, _]] = bench.handle(as_message(handed))

    assert handed.topic == "uniroute.dispatch.b"
    assert "chance" not in headers_of(reply)


def test_an_answer_that_is_paid_is_taken_where_no_more_can_be_paid() -> None:
    """With 0.07 USD, 0.03 spent and 0.06 expected of the next, the unsure answer is the reply."""
    [[reply, _]] = Bench({"a": always(sure(0.5)), "b": always(answer())}).handle(
        dispatch(cascade=RULE, fallbacks="b", max_cost_usd="0.07")
    )

    assert headers_of(reply)["llm"] == "a"
    assert "choices" in body_of(reply)


def test_an_unsure_answer_is_better_than_none() -> None:
    """Where the next LLM fails, the first one's answer is the reply, byte for byte, and says so."""
    first = sure(0.5)
    bench = Bench({"a": always(first), "b": always(CallError("bad_request", "no"))})
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b", on_failure="both"))
    [[reply, usage]] = bench.handle(as_message(handed))
    headers = headers_of(reply)

    assert reply.value == first.value
    assert (headers["llm"], headers["degraded"], headers["decision-id"]) == ("a", "held_answer", "token")
    assert float(headers["chance"]) == pytest.approx(0.5)
    assert "fallback-from" not in headers
    assert [call[:2] for call in calls_of(reply)] == [("a", "ok"), ("b", "bad_request")]
    assert (body_of(usage)["llm"], body_of(usage)["outcome"]) == ("b", "bad_request")


def test_of_two_unsure_answers_the_likelier_is_held() -> None:
    """0.6 of the first LLM and 0.5 of the second: where the third fails, the first one's."""
    bench = Bench({"a": always(sure(0.6)), "b": always(sure(0.5)), "c": always(CallError("auth", "no"))})
    message = dispatch(cascade=RULE, fallbacks="b,c")
    for _ in range(2):
        [[handed]] = bench.handle(message)
        message = as_message(handed)
    [[reply, _]] = bench.handle(message)

    assert headers_of(reply)["llm"] == "a"
    assert float(headers_of(reply)["chance"]) == pytest.approx(0.6)


def test_a_huge_answer_is_not_held() -> None:
    """It would crowd out the prompt on its way: where the next LLM fails, the reply is its error."""
    huge = Answer(value=sure(0.5).value[:-1] + b', "more": "' + b"x" * 300_000 + b'"}', usage=USAGE)
    bench = Bench({"a": always(huge), "b": always(CallError("bad_request", "no"))})
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b"))
    [[reply, _]] = bench.handle(as_message(handed))

    assert body_of(reply)["error"]["code"] == "bad_request"


def test_the_margin_of_the_first_token_is_another_measure() -> None:
    """0.7 against 0.2: ln 3.5 = 1.25, half-way between 0 and 2.5."""
    top = [{"logprob": math.log(0.7)}, {"logprob": math.log(0.2)}]
    choice = {
        "message": {"role": "assistant", "content": "A"},
        "logprobs": {"content": [{"logprob": math.log(0.7), "top_logprobs": top}]},
    }
    told = Answer(value=json.dumps({"choices": [choice]}).encode(), usage=USAGE)
    rule = json.dumps(
        {"accept_at": 0.5, "measure": "first-margin", "confidences": [0.0, 2.5], "chances": [0.0, 1.0]}
    )
    [[reply, _]] = Bench({"a": always(told)}).handle(dispatch(cascade=rule))

    assert float(headers_of(reply)["chance"]) == pytest.approx(math.log(3.5) / 2.5)


@pytest.mark.parametrize("header", ["{", "{}", '{"accept_at": 2}', '{"accept_at": 1, "chances": [0, 3]}'])
def test_a_rule_that_cannot_be_is_refused(header: str) -> None:
    """By class, before any call."""
    with pytest.raises(PoisonError, match="uniroute-cascade"):
        Bench({"a": always(answer())}).handle(dispatch(cascade=header))


def test_an_answer_without_usage_is_taken_for_what_it_was_estimated_at() -> None:
    """21 tokens in and 20 out are 0.041 USD: 0.08 cover no second call, and the estimate is booked."""
    untold = Answer(value=sure(0.5).value, usage=None)
    bench = Bench({"a": always(untold), "b": always(answer())})
    [[reply, usage]] = bench.handle(dispatch(cascade=RULE, fallbacks="b", max_cost_usd="0.08"))

    assert [call[:2] for call in calls_of(reply)] == [("a", "ok")]
    assert body_of(usage)["unsettled_usd"] == pytest.approx(0.041)
    assert "cost-usd" not in headers_of(reply)


def test_an_estimate_travels_on_to_the_next_llm() -> None:
    """A first answer of unknown cost and a second of 0.03 USD: both are told, apart."""
    bench = Bench({"a": always(Answer(value=sure(0.5).value, usage=None)), "b": always(sure(0.9))})
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b"))
    [[_, usage]] = bench.handle(as_message(handed))

    assert body_of(usage)["cost_usd"] == pytest.approx(0.03)
    assert body_of(usage)["unsettled_usd"] == pytest.approx(0.041)


def test_a_likely_answer_at_hand_is_given_rather_than_none() -> None:
    """Right with 0.6 by the first LLM and 0.05 by the second: nobody abstains, the first one's stands."""
    first = sure(0.6)
    bench = Bench({"a": always(first), "b": always(sure(0.05))})
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b"))
    [[reply, _]] = bench.handle(as_message(handed))

    assert reply.value == first.value
    assert float(headers_of(reply)["chance"]) == pytest.approx(0.6)


def test_an_answer_at_hand_is_not_given_past_the_deadline() -> None:
    """The next LLM hangs for longer than the prompt may take: it is expired, as any other, and paid for."""
    bench = Bench({"a": always(sure(0.5)), "b": always(answer(), seconds=100.0)})
    late = (NOW + timedelta(seconds=10)).isoformat()
    [[handed]] = bench.handle(dispatch(cascade=RULE, fallbacks="b", deadline=late))
    [[reply, usage]] = bench.handle(as_message(handed))

    assert body_of(reply)["error"]["code"] == "expired"
    assert body_of(usage)["cost_usd"] == pytest.approx(0.03)
