"""What becomes of a prompt whose LLM fails: retries, budgets, fallbacks, dead letters, cancels, deadlines."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from scripted_calls import (
    NOW,
    Bench,
    StartsAtOnce,
    always,
    answer,
    as_message,
    body_of,
    calls_of,
    dispatch,
    headers_of,
)
from warped_time import run_warped

from workers.calls.errors import CallError
from workers.executor.dispatches import read_dispatch
from workers.settings import Settings

SERVER = CallError("server", "the endpoint answered 500")


def test_each_call_is_on_the_reply() -> None:
    """Two failures and an answer, in order, with what is known of their cost: 30 tokens for 0.03 USD."""
    bench = Bench({"a": lambda call: (1.0, SERVER if call < 2 else answer())})
    [[reply, usage]] = bench.handle(dispatch())

    assert calls_of(reply) == [("a", "server", None), ("a", "server", None), ("a", "ok", pytest.approx(0.03))]
    assert headers_of(reply)["attempt"] == "3"
    assert len(body_of(usage)["calls"]) == 3
    assert [attempt for _, _, attempt, _ in bench.caller.calls] == [1, 2, 3]


def test_calls_of_earlier_lives_are_on_the_reply() -> None:
    """A reply says how often its calls were begun before."""
    bench = Bench({"a": always(answer())}, earlier=2)
    [[reply, _]] = bench.handle(dispatch())

    assert headers_of(reply)["repeated-calls"] == "2"


def test_a_prompt_is_handed_on_to_its_first_fallback() -> None:
    """It goes to the fallback's own topic and lane, with what was tried, and no reply yet."""
    bench = Bench({"a": always(SERVER), "b": always(answer())})
    [[handed]] = bench.handle(dispatch(fallbacks="b,c", lane="batch"))
    read = read_dispatch(as_message(handed), Settings())

    assert handed.topic == "uniroute.dispatch-batch.b"
    assert (read.llm, read.fallbacks, read.fallback_from) == ("b", ("c",), "a")
    assert [call.outcome for call in read.earlier_calls] == ["server"] * 3


def test_calls_made_again_are_counted_across_fallbacks_and_on_dead_letters() -> None:
    """Twice at the first LLM and twice at its fallback are four, also where no LLM answers."""
    bench = Bench({"a": always(SERVER), "b": always(answer())}, earlier=2)
    [[handed]] = bench.handle(dispatch(fallbacks="b"))
    [[reply, _]] = bench.handle(as_message(handed))
    [[letter, _]] = Bench({"b": always(SERVER)}, earlier=2).handle(
        as_message(bench.handle(dispatch(fallbacks="b", on_failure="dead-letter"))[0][0])
    )

    assert headers_of(reply)["repeated-calls"] == "4"
    assert dict(letter.headers)["uniroute-repeated-calls"] == b"4"


def test_a_fallbacks_reply_says_so() -> None:
    """The LLM that answered, the one that was chosen, all calls and their cost; and no decision to credit."""
    bench = Bench({"a": always(CallError("auth", "no")), "b": always(answer())})
    [[handed]] = bench.handle(dispatch(fallbacks="b"))
    [[reply, _]] = bench.handle(as_message(handed))
    headers = headers_of(reply)

    assert (headers["llm"], headers["fallback-from"]) == ("b", "a")
    assert calls_of(reply) == [("a", "auth", None), ("b", "ok", pytest.approx(0.03))]
    assert "decision-id" not in headers


def test_a_prompt_that_is_refused_for_what_it_is_has_no_fallback() -> None:
    """Another LLM is not shown what the first refused as bad or against its policy."""
    for error_class in ("bad_request", "content_policy"):
        bench = Bench({"a": always(CallError(error_class, "no")), "b": always(answer())})
        [[reply, _]] = bench.handle(dispatch(fallbacks="b"))

        assert body_of(reply)["error"]["code"] == error_class


def test_another_call_must_be_within_the_budget() -> None:
    """0.05 USD and 41 tokens expected (21 of 84 bytes, 20 out): a timeout that may cost as much ends it."""
    bench = Bench({"a": always(answer(), seconds=100.0)})
    [[reply, _]] = bench.handle(dispatch(max_cost_usd="0.05"))

    assert body_of(reply)["error"]["code"] == "budget"
    assert len(bench.caller.calls) == 1


def test_calls_of_earlier_lives_may_have_been_paid() -> None:
    """One that ended with its process may have cost .041 USD: .05 leave no room for another, .1 do."""
    poor, rich = Bench({"a": always(answer())}, earlier=1), Bench({"a": always(answer())}, earlier=1)
    [[refused, told]] = poor.handle(dispatch(max_cost_usd="0.05"))
    [[reply, usage]] = rich.handle(dispatch(max_cost_usd="0.1"))

    assert body_of(refused)["error"]["code"] == "budget"
    assert "1 that ended with their process" in body_of(refused)["error"]["message"]
    assert poor.caller.calls == []
    assert "choices" in body_of(reply)
    assert body_of(told)["unsettled_usd"] == body_of(usage)["unsettled_usd"] == pytest.approx(0.041)
    assert float(headers_of(reply)["unsettled-usd"]) == float(headers_of(refused)["unsettled-usd"])
    assert float(headers_of(reply)["unsettled-usd"]) == body_of(usage)["unsettled_usd"]


def test_a_call_is_expected_to_cost_what_its_decision_expected() -> None:
    """.02 USD, not the .041 of a mean answer: so .04 leave room for one more after a crash, .039 do not."""
    expected = {"predicted_cost_usd": "0.02"}
    rich, poor = Bench({"a": always(answer())}, earlier=1), Bench({"a": always(answer())}, earlier=1)
    [[reply, usage]] = rich.handle(dispatch(max_cost_usd="0.04", **expected))
    [[refused, _]] = poor.handle(dispatch(max_cost_usd="0.039", **expected))

    assert "choices" in body_of(reply)
    assert body_of(usage)["unsettled_usd"] == 0.02
    assert body_of(refused)["error"]["code"] == "budget"


def test_a_connection_that_broke_after_the_request_was_sent_may_be_billed() -> None:
    """Its estimate is on the bill; that of a connection that never was is not."""
    broken = CallError("connection", "reset", received=True)
    away = CallError("connection", "refused")
    bench = Bench({"a": lambda call: (0.0, (broken, away, answer())[min(call, 2)])})
    [[reply, usage]] = bench.handle(dispatch())

    assert "choices" in body_of(reply)
    assert body_of(usage)["unsettled_usd"] == pytest.approx(0.041)


def test_calls_that_cost_nothing_leave_the_budget_as_it_is() -> None:
    """A refusal costs nothing: the prompt is tried again."""
    bench = Bench({"a": lambda call: (0.0, SERVER if call < 2 else answer())})
    [[reply, _]] = bench.handle(dispatch(max_cost_usd="0.05"))

    assert "choices" in body_of(reply)


@pytest.mark.parametrize(
    ("choice", "topics"),
    [
        ("reply", ["uniroute.replies.app", "uniroute.usage"]),
        ("dead-letter", ["uniroute.dlq.dispatch.a", "uniroute.usage"]),
        ("both", ["uniroute.replies.app", "uniroute.dlq.dispatch.a", "uniroute.usage"]),
    ],
)
def test_a_failure_ends_as_the_prompt_asked(choice: str, topics: list[str]) -> None:
    """An error reply, a dead letter that can be redriven, or both."""
    bench = Bench({"a": always(SERVER)})
    [records] = bench.handle(dispatch(on_failure=choice))

    assert [record.topic for record in records] == topics


def test_a_call_that_the_deadline_ends_is_told_as_that() -> None:
    """Not as a timeout: another LLM would be late as well, and none is asked."""
    soon = (NOW + timedelta(seconds=5)).isoformat()
    bench = Bench({"a": always(answer(), seconds=100.0), "b": always(answer())})
    [[reply, usage]] = bench.handle(dispatch(deadline=soon, fallbacks="b"))

    assert body_of(reply)["error"]["code"] == body_of(usage)["outcome"] == "expired"
    assert [call[1] for call in body_of(usage)["calls"]] == ["timeout"]


def test_a_prompt_past_its_deadline_is_not_called_for() -> None:
    """It is answered as expired, and never as a dead letter."""
    bench = Bench({"a": always(answer())})
    [[reply, _]] = bench.handle(dispatch(deadline=NOW.isoformat(), on_failure="dead-letter"))

    assert body_of(reply)["error"]["code"] == "expired"
    assert bench.caller.calls == []


def test_a_prompt_expires_while_it_waits_for_its_turn() -> None:
    """Behind a hundred calls that hang, it is answered when its deadline comes."""
    bench = Bench({"a": always(answer(), seconds=50.0)})
    late = (NOW + timedelta(seconds=10)).isoformat()
    *_, [reply, _] = bench.handle(
        *(dispatch(prompt_id=f"p-{number}") for number in range(100)), dispatch(deadline=late)
    )

    assert body_of(reply)["error"]["code"] == "expired"
    assert len(bench.caller.calls) == 100


def test_a_cancel_stops_a_call_in_flight() -> None:
    """The connection is dropped, the reply says cancelled, and its neighbour is answered."""
    bench = Bench({"a": always(answer(), seconds=30.0)})

    async def run() -> list[Any]:
        executor = bench.build()
        tasks = [
            asyncio.create_task(executor.handle(dispatch(prompt_id=name), bench.start))
            for name in ("stays", "goes")
        ]
        await asyncio.sleep(5.0)
        await asyncio.to_thread(bench.cancels.cancel, "goes")
        return [await task for task in tasks]

    [stays, _], [goes, usage] = run_warped(run())

    assert "choices" in body_of(stays)
    assert body_of(goes)["error"]["code"] == "cancelled"
    assert calls_of(goes) == [("a", "cancelled", None)]
    assert body_of(usage)["unsettled_usd"] == pytest.approx(0.041)  # 21 tokens in and 20 out, as estimated
    assert bench.caller.cancelled == 1


def test_a_prompt_that_is_cancelled_twice_at_once_is_answered() -> None:
    """A cancel message that was sent twice stops the call once."""
    bench = Bench({"a": always(answer(), seconds=30.0)})

    async def run() -> Any:
        task = asyncio.create_task(bench.build().handle(dispatch(), bench.start))
        await asyncio.sleep(5.0)
        bench.cancels.cancel("p-1")
        bench.cancels.cancel("p-1")
        return await task

    [reply, _] = run_warped(run())

    assert body_of(reply)["error"]["code"] == "cancelled"


def test_a_fallback_that_nobody_registered_is_not_handed_to() -> None:
    """Its topic may not exist: the reply is the error of the LLM that was called."""
    [[reply, usage]] = Bench({"a": always(SERVER)}).handle(dispatch(fallbacks="gone"))

    assert body_of(reply)["error"]["code"] == "server"
    assert len(body_of(usage)["calls"]) == 3


def test_a_cancel_that_comes_first_is_heeded() -> None:
    """What is cancelled before it is dispatched is not called for."""
    bench = Bench({"a": always(answer())})
    bench.cancels.cancel("p-1")
    [[reply, _]] = bench.handle(dispatch())

    assert body_of(reply)["error"]["code"] == "cancelled"
    assert bench.caller.calls == []


def test_a_prompt_with_a_fallback_does_not_wait_for_a_failing_endpoint() -> None:
    """Ten failures open the breaker; who has another LLM goes there at once and without a call."""
    bench = Bench({"a": always(SERVER), "b": always(answer())}, attempts=1)
    first = bench.handle(*(dispatch(prompt_id=f"p-{number}", fallbacks="b") for number in range(50)))

    assert {records[0].topic for records in first} == {"uniroute.dispatch.b"}
    assert bench.states[0] == ("a", "open")


def test_a_prompt_without_a_fallback_waits_for_the_endpoint_to_come_back() -> None:
    """While the breaker is open nobody calls but one probe at a time; then all are answered."""
    bench = Bench({"a": lambda call: (0.1, SERVER if call < 12 else answer())}, attempts=20)
    replies = bench.handle(*(dispatch(prompt_id=f"p-{number}") for number in range(10)))
    times = [at for *_, at in bench.caller.calls]

    assert all("choices" in body_of(reply) for reply, _ in replies)
    assert sum(0.1 < at < 2.0 for at in times) == 0
    assert len(times) == 22


def test_an_endpoint_that_stays_away_is_given_up_in_the_end() -> None:
    """With no deadline a prompt is told after its attempts and two minutes' patience at most each."""
    bench = Bench({"a": always(SERVER)}, attempts=3)
    replies = bench.handle(*(dispatch(prompt_id=f"p-{number}") for number in range(30)))

    assert {body_of(reply)["error"]["code"] for reply, _ in replies} == {"server"}


class BrokenRandom(random.Random):
    """A bug of ours that comes when a call is behind us: the wait before the next is drawn."""

    def random(self) -> float:
        """Fail."""
        raise RuntimeError("a bug that quotes the prompt")


@pytest.mark.parametrize("on_failure", ["reply", "both"])
def test_a_bug_of_ours_after_a_paid_call_loses_no_bill(on_failure: str) -> None:
    """A dead letter that says so, and the usage: 5 tokens in and 20 out may have cost .025 USD or so.

    The call is not made again, and no caller was told, so that the letter can be redriven.
    """
    bench = Bench({"a": always(CallError("timeout", "late"))}, rng=BrokenRandom())
    [[letter, usage]] = bench.handle(dispatch(on_failure=on_failure))
    headers = headers_of(letter)

    assert (letter.topic, headers["dlq-class"]) == ("uniroute.dlq.dispatch.a", "handler_error")
    assert "quotes" not in headers["__dlq.errors.message"]
    assert (headers["dlq-booked"], "dlq-answered" in headers) == ("true", False)
    assert len(bench.caller.calls) == 1
    assert body_of(usage)["outcome"] == "handler_error"
    assert [call[1] for call in body_of(usage)["calls"]] == ["timeout"]
    assert float(headers["unsettled-usd"]) == body_of(usage)["unsettled_usd"] > 0.02


def test_a_bug_of_ours_before_any_call_is_tried_again() -> None:
    """Nothing was paid: it comes out, and whoever called decides how often."""
    bench = Bench({"a": always(answer())})

    with pytest.raises(RuntimeError):
        bench.handle(dispatch(), start=BrokenStart())


def test_a_bug_of_ours_after_a_hand_on_books_what_was_paid_before() -> None:
    """The LLM before cost .03 USD, which nobody has booked yet."""
    earlier = '[["z","bad_response",1.0,10,20,0.03]]'
    [[_, usage]] = Bench({"a": always(answer())}).handle(dispatch(calls=earlier), start=BrokenStart())

    assert body_of(usage)["cost_usd"] == pytest.approx(0.03)


class BrokenStart(StartsAtOnce):
    """A bug of ours before the first call."""

    async def __call__(self, *_topics: str) -> None:
        """Fail."""
        raise RuntimeError("a bug")
