"""Calls that earlier lives began: every end of a dispatch tells of them, whether or not it calls again."""

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from scripted_calls import (
    NOW,
    Bench,
    StartsAtOnce,
    always,
    answer,
    as_message,
    body_of,
    dispatch,
    headers_of,
)
from warped_time import run_warped

from workers.calls.errors import CallError
from workers.errors import PoisonError, WaitableError
from workers.messages import Record

SERVER = CallError("server", "the endpoint answered 500")
#: 21 tokens in and 20 out, as estimated, at one USD per thousand.
ONE_CALL_USD = 0.041


def told(record: Record) -> tuple[str | None, float]:
    """How many calls a record says were begun before, and the USD that nobody settled."""
    headers = headers_of(record)
    return headers.get("repeated-calls"), float(headers.get("unsettled-usd", "0"))


@pytest.mark.parametrize("on_failure", ["reply", "dead-letter"])
def test_one_that_expired_before_it_called_tells_of_earlier_calls(on_failure: str) -> None:
    """Two calls that may have been paid are on the reply and in the books; no call is begun to learn that."""
    bench, start = Bench({"a": always(answer())}), StartsAtOnce(earlier=2)
    [[reply, usage]] = bench.handle(dispatch(deadline=NOW.isoformat(), on_failure=on_failure), start=start)

    assert body_of(reply)["error"]["code"] == "expired"
    assert told(reply) == ("2", pytest.approx(2 * ONE_CALL_USD))
    assert body_of(usage)["unsettled_usd"] == pytest.approx(2 * ONE_CALL_USD)
    assert (start.asked, bench.caller.calls) == (0, [])


def test_one_that_was_cancelled_before_it_called_tells_of_earlier_calls() -> None:
    """As estimated by what its decision expected of a call."""
    bench = Bench({"a": always(answer())}, earlier=1)
    bench.cancels.cancel("p-1")
    [[reply, usage]] = bench.handle(dispatch(predicted_cost_usd="0.5"))

    assert body_of(reply)["error"]["code"] == "cancelled"
    assert told(reply) == ("1", 0.5)
    assert body_of(usage)["unsettled_usd"] == 0.5


def test_one_that_waited_for_its_turn_in_vain_tells_of_earlier_calls() -> None:
    """Behind a hundred calls that hang, when its deadline comes."""
    bench = Bench({"a": always(answer(), seconds=50.0)}, earlier=1)
    late = (NOW + timedelta(seconds=10)).isoformat()
    *_, [reply, _] = bench.handle(
        *(dispatch(prompt_id=f"p-{number}") for number in range(100)), dispatch(deadline=late)
    )

    assert body_of(reply)["error"]["code"] == "expired"
    assert told(reply) == ("1", pytest.approx(ONE_CALL_USD))


def test_a_closed_gate_hands_on_what_is_known_of_earlier_calls() -> None:
    """Ten failures close the way to an LLM: who is handed on without a call there takes its count along."""
    bench = Bench({"a": always(SERVER), "b": always(answer())}, attempts=1)

    async def run() -> Record:
        executor = bench.build()
        for number in range(10):
            await executor.handle(dispatch(prompt_id=f"p-{number}"), bench.start)
        [handed] = await executor.handle(dispatch(fallbacks="b"), StartsAtOnce(earlier=3))
        reply, _ = await executor.handle(as_message(handed), bench.start)
        return reply

    reply = run_warped(run())

    assert bench.states[0] == ("a", "open")
    assert [llm for llm, *_ in bench.caller.calls].count("a") == 10
    assert told(reply)[0] == "3"


def test_one_whose_llm_is_gone_tells_of_earlier_calls() -> None:
    """What they cost is taken from its decision: the LLM's prices went with it."""
    bench = Bench({"b": always(answer())}, earlier=1)
    [[reply, _]] = bench.handle(dispatch("a", predicted_cost_usd="0.25"))

    assert body_of(reply)["error"]["code"] == "unknown_llm"
    assert told(reply) == ("1", 0.25)


@dataclass(slots=True)
class Refused(StartsAtOnce):
    """The reply topic of the dispatch is gone, or the log is."""

    error: Exception = field(
        default_factory=lambda: PoisonError("unknown_topic", "topic 'gone' does not exist")
    )

    async def __call__(self, *_topics: str) -> None:
        """Fail."""
        raise self.error


def test_one_that_is_refused_when_it_starts_tells_of_earlier_calls() -> None:
    """Its dead letter says what may have been paid, and its usage books that."""
    bench = Bench({"a": always(answer())})
    [[letter, usage]] = bench.handle(dispatch(), start=Refused(earlier=2))

    assert (headers_of(letter)["dlq-class"], headers_of(letter)["dlq-booked"]) == ("unknown_topic", "true")
    assert told(letter) == ("2", pytest.approx(2 * ONE_CALL_USD))
    assert body_of(usage)["unsettled_usd"] == pytest.approx(2 * ONE_CALL_USD)


def test_one_that_waits_is_begun_again_whatever_earlier_lives_did() -> None:
    """Something is away, and no call was made now: there is no end to tell of."""
    away = Refused(earlier=2, error=WaitableError("Kafka", "it is away"))

    with pytest.raises(WaitableError):
        Bench({"a": always(answer())}).handle(dispatch(), start=away)


def test_one_without_money_for_another_call_asks_nobody() -> None:
    """What earlier lives began is known before the log is told of another call."""
    start = StartsAtOnce(earlier=1)
    [[reply, _]] = Bench({"a": always(answer())}).handle(dispatch(max_cost_usd="0.05"), start=start)

    assert body_of(reply)["error"]["code"] == "budget"
    assert start.asked == 0


def test_calls_of_an_llm_that_handed_on_keep_its_price() -> None:
    """.5 USD each by the first LLM's decision, .041 at the second: two and one are 1.041, not .123."""
    bench = Bench({"a": always(SERVER), "b": always(answer())})
    [[handed]] = bench.handle(
        dispatch(fallbacks="b", predicted_cost_usd="0.5"), start=StartsAtOnce(earlier=2)
    )
    [[reply, usage]] = bench.handle(as_message(handed), start=StartsAtOnce(earlier=1))

    assert told(handed)[0] == "2"
    assert told(reply) == ("3", pytest.approx(2 * 0.5 + ONE_CALL_USD))
    assert json.loads(headers_of(reply)["lost-calls"]) == [
        ["a", 2, 1.0],
        ["b", 1, pytest.approx(ONE_CALL_USD)],
    ]
    assert body_of(usage)["unsettled_usd"] == pytest.approx(2 * 0.5 + ONE_CALL_USD)


def test_the_price_of_lost_calls_holds_against_the_prompts_limit() -> None:
    """One call of .5 USD leaves no room in .52 for another of .041, though one of .041 would."""
    bench = Bench({"a": always(SERVER), "b": always(answer())})
    limits = {"fallbacks": "b", "predicted_cost_usd": "0.5", "max_cost_usd": "1.01"}
    [[handed]] = bench.handle(dispatch(**limits), start=StartsAtOnce(earlier=1))
    headers = {**dict(as_message(handed).headers), "uniroute-max-cost-usd": b"0.52"}
    [[reply, _]] = bench.handle(replace(as_message(handed), headers=tuple(headers.items())))

    assert body_of(reply)["error"]["code"] == "budget"


def test_a_dispatch_that_an_earlier_version_handed_on_is_read_as_it_was() -> None:
    """It tells how many calls were lost, and not where: each is taken to have cost what one costs here."""
    message = dispatch("b", fallback_from="a", repeated_calls="2")
    [[reply, _]] = Bench({"b": always(answer())}, earlier=1).handle(message)

    assert told(reply) == ("3", pytest.approx(3 * ONE_CALL_USD))
    assert [one[:2] for one in json.loads(headers_of(reply)["lost-calls"])] == [["a", 2], ["b", 1]]


def test_lost_calls_that_cannot_be_read_are_poison() -> None:
    """No executor of ours wrote them."""
    with pytest.raises(PoisonError, match="uniroute-lost-calls"):
        Bench({"a": always(answer())}).handle(dispatch(lost_calls='[["a", -1, 0.5]]'))
