"""The executor: call the LLM a dispatch names, and answer on the caller's reply topic."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from routing.costs import call_cost
from routing.llms import Price
from workers import messages
from workers.calls.endpoints import Answer, Endpoint, EndpointCaller
from workers.calls.errors import CallError
from workers.calls.retries import RetryPolicy
from workers.calls.usage import Usage
from workers.errors import PoisonError, WaitableError
from workers.messages import Headers, Message, Record
from workers.prompts import read_deadline, read_reply_topic
from workers.settings import Settings
from workers.topics import Topics
from workers.transactions.call_work import Start

#: What travels on from a dispatch to its reply.
_CARRIED = (
    messages.DECISION_ID,
    messages.LLM,
    messages.POLICY,
    messages.PREDICTED_ERROR,
    messages.PREDICTED_COST_USD,
    messages.VERSIONS,
    messages.TRACEPARENT,
)
_SOURCE = "/executor"
#: How long an LLM that a dispatch names may be missing from a registry that can be read.
_REGISTRY_LAG_S = 10.0
_REGISTRY_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableLLM:
    """What an executor knows of an LLM: where it answers and what its tokens cost."""

    endpoint: Endpoint
    price: Price
    #: The number under which the price was set.
    price_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dispatch:
    """A dispatch that can be answered."""

    message: Message
    prompt_id: str
    llm: str
    reply_to: str
    body: dict[str, Any]
    deadline: datetime | None
    decision_id: str
    #: As the prompt named it, and as the router put it; empty where nobody did.
    tenant: str
    lane: str
    reserved_usd: float


class Executor:
    """Turns one dispatch into one reply, an error reply included, and one record of what that took.

    ``llms`` gives the callable LLMs by name, as they were last read; ``is_stale`` tells whether they cannot
    be read now. Whatever the endpoint does, ``handle`` gives exactly one reply; only a dispatch that no
    router of ours wrote is poison.
    """

    def __init__(
        self,
        *,
        caller: EndpointCaller,
        llms: Callable[[], Mapping[str, CallableLLM]],
        retries: RetryPolicy,
        settings: Settings,
        rng: random.Random,
        is_stale: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._caller = caller
        self._llms = llms
        self._retries = retries
        self._settings = settings
        self._rng = rng
        self._is_stale = is_stale
        self._now = now
        self._sleep = sleep

    async def handle(self, message: Message, start: Start) -> Sequence[Record]:
        """Call and answer; ``start`` is awaited before the first call.

        Raises ``PoisonError`` of class ``invalid_dispatch``, ``no_reply_topic``, ``illegal_reply_topic`` or
        ``bad_header`` for a dispatch that cannot be read.
        """
        dispatch = _read_dispatch(message, self._settings)
        bill = _Bill(started=self._now())
        try:
            llm = await self._find(dispatch.llm)
            bill.price, bill.price_version = llm.price, llm.price_version
            answer = await self._call(llm, dispatch, bill, start)
            value, bill.answered = answer.value, answer.usage
        except _GaveUp as given_up:
            value = messages.error_value(given_up.error_class, given_up.sentence)
            bill.outcome = given_up.error_class
        return [self._reply(dispatch, value, bill.facts), self._usage(dispatch, bill)]

    async def _find(self, name: str) -> CallableLLM:
        """Give the LLM; wait for one that a router knows already, because it joined a moment ago."""
        waited_s = 0.0
        while (llm := self._llms().get(name)) is None:
            if self._is_stale():
                raise WaitableError("the registry", f"LLM {name!r} is not in what was read of it last")
            if waited_s >= _REGISTRY_LAG_S:
                raise _GaveUp("unknown_llm", f"no LLM {name!r} is registered")
            await self._sleep(_REGISTRY_POLL_S)
            waited_s += _REGISTRY_POLL_S
        return llm

    async def _call(self, llm: CallableLLM, dispatch: _Dispatch, bill: "_Bill", start: Start) -> Answer:
        deadline = dispatch.deadline
        while True:
            left_s = (deadline - self._now()).total_seconds() if deadline else float("inf")
            if left_s <= 0:
                raise _GaveUp("expired", "the deadline passed before an answer came")
            if not bill.attempts:
                bill.repeated_calls = await start()
            bill.attempts += 1
            try:
                answer = await self._caller.call(
                    llm.endpoint,
                    dispatch.body,
                    prompt_id=dispatch.prompt_id,
                    timeout_s=min(self._settings.call_timeout_s, left_s),
                )
            except CallError as error:
                bill.add(error.usage)
                wait_s = self._retries.wait(bill.attempts, error, left_s=left_s, rng=self._rng)
                if wait_s is None:
                    raise _GaveUp(error.error_class, error.sentence) from error
                await self._sleep(wait_s)
            else:
                bill.add(answer.usage)
                return answer

    def _reply(self, dispatch: _Dispatch, value: bytes, facts: Headers) -> Record:
        event = messages.event_headers(
            event_id=dispatch.prompt_id, event_type="uniroute.reply", source=_SOURCE, now=self._now()
        )
        headers = (*event, *messages.carried(dispatch.message, _CARRIED), *facts)
        return Record(topic=dispatch.reply_to, key=dispatch.message.key, value=value, headers=headers)

    def _usage(self, dispatch: _Dispatch, bill: "_Bill") -> Record:
        now = self._now()
        record = _describe_usage(dispatch, bill, now=now)
        event = messages.event_headers(
            event_id=record.usage_id, event_type="uniroute.usage", source=_SOURCE, now=now
        )
        return Record(
            topic=Topics(self._settings.topic_prefix).usage,
            key=dispatch.message.key,
            value=messages.encode(record),
            headers=(*event, *messages.carried(dispatch.message, (messages.TRACEPARENT,))),
        )


@dataclass(slots=True)
class _Bill:
    """What answering a prompt took: calls, and the USD of those whose usage the endpoint told."""

    started: datetime
    price: Price | None = None
    price_version: int = 0
    attempts: int = 0
    #: Times that calling was begun before, in lives that ended before they could answer.
    repeated_calls: int = 0
    cost_usd: float | None = None
    #: ``ok``, or the class of the error reply.
    outcome: str = "ok"
    #: Of the call that answered.
    answered: Usage | None = None

    def add(self, usage: Usage | None) -> None:
        if usage is None or self.price is None:
            return
        cost = call_cost(self.price, input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
        self.cost_usd = (self.cost_usd or 0.0) + cost

    @property
    def facts(self) -> Headers:
        attempts: Headers = ((messages.ATTEMPT, str(self.attempts).encode()),)
        if self.repeated_calls:
            attempts = (*attempts, (messages.REPEATED_CALLS, str(self.repeated_calls).encode()))
        if self.cost_usd is None:
            return attempts
        return (*attempts, (messages.COST_USD, repr(self.cost_usd).encode()))


def _describe_usage(dispatch: _Dispatch, bill: _Bill, *, now: datetime) -> messages.UsageRecord:
    """Say what answering a dispatch took. The same dispatch gets the same ``usage_id`` each time."""
    message, answered = dispatch.message, bill.answered
    return messages.UsageRecord(
        usage_id=f"{message.topic}/{message.partition}/{message.offset}",
        prompt_id=dispatch.prompt_id,
        decision_id=dispatch.decision_id,
        llm=dispatch.llm,
        outcome=bill.outcome,
        attempts=bill.attempts,
        seconds=(now - bill.started).total_seconds(),
        tenant=dispatch.tenant,
        lane=dispatch.lane,
        input_tokens=None if answered is None else answered.prompt_tokens,
        output_tokens=None if answered is None else answered.completion_tokens,
        cost_usd=bill.cost_usd,
        reserved_usd=dispatch.reserved_usd,
        price_version=bill.price_version,
    )


class _GaveUp(Exception):  # noqa: N818 (an outcome, not a fault of ours)
    """No answer came, and none will: what the error reply says."""

    def __init__(self, error_class: str, sentence: str) -> None:
        super().__init__(sentence)
        self.error_class = error_class
        self.sentence = sentence


def _read_dispatch(message: Message, settings: Settings) -> _Dispatch:
    llm = message.text_header(messages.LLM)
    if not (llm and message.key and message.value):
        raise PoisonError("invalid_dispatch", "the dispatch lacks its LLM, key or body")
    try:
        prompt_id = message.key.decode()
        body = msgspec.json.decode(message.value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonError("invalid_dispatch", f"the dispatch cannot be read: {error}") from error
    return _Dispatch(
        message=message,
        prompt_id=prompt_id,
        llm=llm,
        reply_to=read_reply_topic(message, settings),
        body=body,
        deadline=read_deadline(message),
        decision_id=message.text_header(messages.DECISION_ID) or "",
        tenant=message.text_header(messages.TENANT) or "",
        lane=message.text_header(messages.LANE) or "",
        reserved_usd=messages.number_header(message, messages.RESERVED_USD) or 0.0,
    )
