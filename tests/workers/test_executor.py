"""What the executor makes of a dispatch, with the real openai client against the simulated LLMs' server."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest
from scripted_calls import StartsAtOnce

from routing.llms import Price
from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.retries import RetryPolicy
from workers.errors import PoisonError
from workers.executor import CallableLLM, Executor, Gates
from workers.executor.dispatches import read_dispatch
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.faults import (
    Fault,
    Hang,
    HugeBody,
    MissingUsage,
    RateLimit,
    Reset,
    Scenario,
    ServerError,
    Trickle,
    TruncatedJson,
    WrongContentType,
)
from workers.local.simulated.server import SimulatedServer
from workers.messages import CallFact, Headers, Message, Record, UsageRecord
from workers.settings import Settings
from workers.topics import Topics

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
SOURCE = BuiltinSource()
PROMPT = SOURCE.prompts("traffic", 1)[0]
LLM = "sim-generalist"
#: 2 USD per million tokens in, 5 out.
PRICE = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=5.0)
KEY = "sk-secret-0123456789"
CARRIED = (
    ("uniroute-decision-id", b"token"),
    ("uniroute-llm", LLM.encode()),
    ("uniroute-policy", b"default@1"),
    ("uniroute-predicted-error", b"0.25"),
    ("uniroute-predicted-cost-usd", b"0.001"),
    ("uniroute-versions", b"{}"),
    ("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
)


@dataclass(slots=True)
class Time:
    """A clock that moves only when somebody sleeps."""

    now: datetime = NOW
    slept: list[float] = field(default_factory=list)

    def seconds(self) -> float:
        """Tell the time."""
        return self.now.timestamp()

    async def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


def dispatch(
    *headers: tuple[str, bytes],
    key: bytes | None = PROMPT.prompt_id.encode(),
    value: bytes | None = None,
    carried: Headers = CARRIED,
    reply_to: bytes | None = b"uniroute.replies.app",
) -> Message:
    """Make the dispatch of a prompt."""
    body = {"model": "auto", "messages": [{"role": "user", "content": PROMPT.text}], "x-new": 1}
    reply = () if reply_to is None else (("uniroute-reply-to", reply_to),)
    return Message(
        topic=f"uniroute.dispatch.{LLM}",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=key,
        value=json.dumps(body).encode() if value is None else value,
        headers=(*carried, *reply, *headers),
    )


@dataclass(slots=True)
class Outcome:
    """What came of handling, and what the server saw."""

    records: Sequence[Record]
    #: As ``GET /calls`` tells them.
    calls: Sequence[dict[str, Any]]
    time: Time

    @property
    def reply(self) -> Record:
        """The one reply."""
        [reply, _] = self.records
        return reply

    @property
    def usage(self) -> UsageRecord:
        """The one record of what it took."""
        [_, usage] = self.records

        assert (usage.topic, usage.key) == ("uniroute.usage", self.reply.key)
        return msgspec.json.decode(usage.value or b"", type=UsageRecord)

    @property
    def headers(self) -> dict[str, str]:
        """The reply's headers as text."""
        return {name: value.decode() for name, value in self.reply.headers}

    @property
    def body(self) -> Any:
        """The reply's JSON."""
        return json.loads(self.reply.value or b"")


def execute(
    message: Message,
    *faults: Fault,
    retries: RetryPolicy = RetryPolicy(attempts=3, first_s=0.0),  # noqa: B008 (a frozen value)
    known: bool = True,
    key_ref: str = "",
    call_timeout_s: float = 5.0,
    base_url: Callable[[str], str] = lambda url: f"{url}/v1",
) -> Outcome:
    """Handle a dispatch against a server with these faults."""

    async def run() -> Outcome:
        server = SimulatedServer(SOURCE, scenario=Scenario(fault=faults), latency_scale=0.0)  # type: ignore[arg-type]
        url = await server.start()
        endpoint = Endpoint(llm=LLM, base_url=base_url(url), provider_model=LLM, api_key_ref=key_ref)
        caller = EndpointCaller(timeout_s=call_timeout_s, max_connections=4)
        time = Time()
        executor = Executor(
            caller=caller,
            llms=lambda: {LLM: CallableLLM(endpoint=endpoint, price=PRICE, price_version=7)} if known else {},
            retries=retries,
            gates=Gates(topics=Topics(), most=100, clock=time.seconds),
            settings=Settings(call_timeout_s=call_timeout_s),
            rng=random.Random(0),
            now=lambda: time.now,
            sleep=time.sleep,
        )
        try:
            records = await executor.handle(message, StartsAtOnce())
            async with aiohttp.ClientSession() as session, session.get(f"{url}/calls") as page:
                calls = (await page.json())["calls"]
            return Outcome(records=records, calls=calls, time=time)
        finally:
            await caller.close()
            await server.stop()

    return asyncio.run(run())


def test_an_answer_becomes_a_reply() -> None:
    """The endpoint's bytes, on the caller's topic, under the prompt's key."""
    expected = SOURCE.answer(LLM, PROMPT.prompt_id, PROMPT.text)

    outcome = execute(dispatch())

    assert (outcome.reply.topic, outcome.reply.key) == ("uniroute.replies.app", PROMPT.prompt_id.encode())
    assert outcome.body["choices"][0]["message"]["content"] == expected.text
    assert outcome.body["usage"]["completion_tokens"] == expected.output_tokens
    assert (outcome.headers["ce_type"], outcome.headers["ce_id"]) == ("uniroute.reply", PROMPT.prompt_id)
    assert len(outcome.calls) == 1


def test_a_reply_carries_the_decision_and_its_cost() -> None:
    """What feedback and accounting need travels on; the cost is that of the tokens that were counted."""
    expected = SOURCE.answer(LLM, PROMPT.prompt_id, PROMPT.text)
    cost = (2.0 * expected.input_tokens + 5.0 * expected.output_tokens) / 1e6

    outcome = execute(dispatch(("uniroute-tenant", b"acme")))

    assert set(CARRIED) <= set(outcome.reply.headers)
    assert float(outcome.headers["uniroute-cost-usd"]) == pytest.approx(cost, rel=1e-12)
    assert outcome.headers["uniroute-attempt"] == "1"


def test_an_answer_leaves_a_record_of_what_it_took() -> None:
    """Accounting and learning read it: who pays, what was reserved and what it came to, in which tokens."""
    expected = SOURCE.answer(LLM, PROMPT.prompt_id, PROMPT.text)

    outcome = execute(
        dispatch(
            ("uniroute-tenant", b"acme"),
            ("uniroute-lane", b"batch"),
            ("uniroute-reserved-usd", b"0.002"),
            ("uniroute-policy-period", b"1801396800"),
            ("uniroute-degraded", b"tenant_budget"),
            ("uniroute-input-tokens", b"12.5"),
        )
    )

    assert outcome.usage == UsageRecord(
        usage_id=f"uniroute.dispatch.{LLM}/0/0",
        prompt_id=PROMPT.prompt_id,
        decision_id="token",
        llm=LLM,
        outcome="ok",
        attempts=1,
        seconds=0.0,
        tenant="acme",
        lane="batch",
        input_tokens=expected.input_tokens,
        output_tokens=expected.output_tokens,
        cost_usd=float(outcome.headers["uniroute-cost-usd"]),
        reserved_usd=0.002,
        policy="default@1",
        expected_usd=0.001,
        policy_period=1801396800,
        degraded="tenant_budget",
        price_version=7,
        estimated_tokens=12.5,
        calls=(
            CallFact(
                llm=LLM,
                outcome="ok",
                seconds=0.0,
                input_tokens=expected.input_tokens,
                output_tokens=expected.output_tokens,
                cost_usd=float(outcome.headers["uniroute-cost-usd"]),
                price_version=7,
            ),
        ),
    )


def test_a_tenants_weight_is_read_of_the_dispatch() -> None:
    """Absent it is 1; one that is as good as nothing is kept from dividing by 0."""
    headers: list[tuple[tuple[str, bytes], ...]] = [
        (),
        (("uniroute-priority", b"2.5"),),
        (("uniroute-priority", b"1e-300"),),
    ]

    found = [read_dispatch(dispatch(*one), Settings()).priority for one in headers]

    assert found == [1.0, 2.5, 1e-9]


def test_an_error_leaves_a_record_of_what_it_took() -> None:
    """What was reserved is told, so that it can be given back; the seconds are those of the waits."""
    outcome = execute(dispatch(("uniroute-reserved-usd", b"0.002")), RateLimit(retry_after_s=2.5))

    assert (outcome.usage.outcome, outcome.usage.attempts) == ("rate_limit", 3)
    assert (outcome.usage.cost_usd, outcome.usage.output_tokens) == (None, None)
    assert (outcome.usage.reserved_usd, outcome.usage.seconds) == (0.002, 5.0)


def test_without_usage_the_cost_is_not_known() -> None:
    """There is no cost header, rather than a cost of nothing."""
    outcome = execute(dispatch(), MissingUsage())

    assert "uniroute-cost-usd" not in outcome.headers
    assert outcome.usage.cost_usd is None
    assert "choices" in outcome.body


@pytest.mark.parametrize(
    "fault",
    [ServerError(until_call=2), RateLimit(until_call=2), TruncatedJson(until_call=2), Reset(until_call=2)],
)
def test_what_passes_is_tried_again(fault: Fault) -> None:
    """Two failures, then the answer: the third attempt is the reply's."""
    outcome = execute(dispatch(), fault)

    assert "choices" in outcome.body
    assert outcome.headers["uniroute-attempt"] == "3"
    assert len(outcome.calls) == 3


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (RateLimit(), "rate_limit"),
        (ServerError(status=503), "server"),
        (ServerError(status=504), "timeout"),
        (Hang(hang_s=30.0), "timeout"),
        (Trickle(trickle_s=30.0), "timeout"),
        (Reset(), "connection"),
        (TruncatedJson(), "bad_response"),
        (WrongContentType(), "bad_response"),
    ],
)
def test_what_does_not_pass_is_an_error_reply(fault: Fault, error_class: str) -> None:
    """After the last attempt the caller is told the class, with the facts of the decision."""
    outcome = execute(dispatch(), fault, call_timeout_s=0.5)

    assert outcome.body["error"]["code"] == error_class
    assert outcome.body["error"]["message"]
    assert outcome.headers["uniroute-attempt"] == "3"
    assert "uniroute-cost-usd" not in outcome.headers
    assert set(CARRIED) <= set(outcome.reply.headers)
    assert len(outcome.calls) == 3


def test_an_answer_that_does_not_fit_is_paid_once() -> None:
    """It was answered, and billed: it is not bought again, and the error reply tells what it cost."""
    outcome = execute(dispatch(), HugeBody(megabytes=4.0))

    assert outcome.body["error"]["code"] == "bad_response"
    assert outcome.headers["uniroute-attempt"] == "1"
    assert float(outcome.headers["uniroute-cost-usd"]) > 0
    assert len(outcome.calls) == 1


def test_retry_after_is_honoured() -> None:
    """The executor sleeps as long as it is asked to, no shorter."""
    outcome = execute(dispatch(), RateLimit(until_call=1, retry_after_s=2.5))

    assert outcome.time.slept == [2.5]
    assert outcome.headers["uniroute-attempt"] == "2"


def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    """The error that came is the reply, at once."""
    deadline = (NOW + timedelta(seconds=2)).isoformat().encode()

    outcome = execute(dispatch(("uniroute-deadline", deadline)), RateLimit(retry_after_s=2.5))

    assert outcome.time.slept == []
    assert outcome.body["error"]["code"] == "rate_limit"


def test_after_the_deadline_nobody_is_called() -> None:
    """A late dispatch costs nothing."""
    outcome = execute(dispatch(("uniroute-deadline", b"2027-01-31T12:00:00Z")))

    assert outcome.body["error"]["code"] == "expired"
    assert outcome.headers["uniroute-attempt"] == "0"
    assert outcome.calls == []


def test_a_call_ends_at_the_deadline() -> None:
    """An endpoint that hangs is left when the answer would come too late."""
    deadline = (NOW + timedelta(seconds=0.2)).isoformat().encode()

    outcome = execute(
        dispatch(("uniroute-deadline", deadline)), Hang(hang_s=30.0), retries=RetryPolicy(attempts=1)
    )

    assert outcome.body["error"]["code"] == "timeout"


def test_an_llm_that_nobody_registered_is_an_error_reply() -> None:
    """The executor gives the registry ten seconds, and then the reason."""
    outcome = execute(dispatch(), known=False)

    assert sum(outcome.time.slept) == 10.0
    assert outcome.body["error"]["code"] == "unknown_llm"
    assert LLM in outcome.body["error"]["message"]


def test_an_endpoint_that_is_away_is_an_error_reply() -> None:
    """A connection refused is tried again, then told."""
    outcome = execute(dispatch(), base_url=lambda _: "http://127.0.0.1:1/v1")

    assert outcome.body["error"]["code"] == "connection"
    assert outcome.headers["uniroute-attempt"] == "3"


@pytest.mark.parametrize("value", [KEY, f"{KEY}\n", None])
def test_a_key_never_appears_in_a_reply(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes by reference from the executor's environment; neither success nor failure shows it."""
    if value is not None:
        monkeypatch.setenv("TEST_LLM_KEY", value)

    outcome = execute(dispatch(), key_ref="env:TEST_LLM_KEY")
    told = (outcome.reply.value or b"") + b"".join(content for _, content in outcome.reply.headers)

    assert KEY.encode() not in told
    assert ("choices" in outcome.body) == (value == KEY)


def test_a_body_as_deep_as_a_router_lets_through_is_answered() -> None:
    """Nesting costs no dead letter: the body is sent on, and the endpoint says what it thinks of it."""
    deep = b'{"model":"auto","x":' + b"[" * 900 + b"]" * 900 + b',"messages":[{"role":"user","content":"a"}]}'

    outcome = execute(dispatch(value=deep))

    assert outcome.body.keys() & {"choices", "error"}


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        (dispatch(carried=()), "invalid_dispatch"),
        (dispatch(key=None), "invalid_dispatch"),
        (dispatch(key=b"\xff"), "invalid_dispatch"),
        (dispatch(value=b""), "invalid_dispatch"),
        (dispatch(value=b"{"), "invalid_dispatch"),
        (dispatch(value=b"[]"), "invalid_dispatch"),
        (dispatch(value=b'{"x": "\xff"}'), "invalid_dispatch"),
        (dispatch(value=b'{"x": 1e999}'), "invalid_dispatch"),
        (dispatch(value=b"[" * 100_000), "invalid_dispatch"),
        (dispatch(carried=(("uniroute-llm", b"\xff"),)), "bad_header"),
        (dispatch(carried=(("uniroute-llm", b"x" * 9_000),)), "bad_header"),
        (dispatch(("uniroute-deadline", b"soon")), "bad_header"),
        (dispatch(reply_to=None), "no_reply_topic"),
        (dispatch(reply_to=b"payments"), "illegal_reply_topic"),
    ],
)
def test_what_no_router_wrote_is_poison(message: Message, error_class: str) -> None:
    """A forged or damaged dispatch is refused by class, before anybody is called."""
    with pytest.raises(PoisonError) as refusal:
        execute(message)

    assert refusal.value.error_class == error_class
