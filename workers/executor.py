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
from workers.errors import PoisonError
from workers.messages import Headers, Message, Record

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableLLM:
    """What an executor knows of an LLM: where it answers and what its tokens cost."""

    endpoint: Endpoint
    price: Price


class Executor:
    """Turns one dispatch into one reply, an error reply included.

    ``llms`` gives the callable LLMs by name, as of now. Whatever the endpoint does, ``handle`` gives exactly
    one record; only a dispatch that cannot be read is poison.
    """

    def __init__(
        self,
        *,
        caller: EndpointCaller,
        llms: Callable[[], Mapping[str, CallableLLM]],
        retries: RetryPolicy,
        call_timeout_s: float,
        rng: random.Random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._caller = caller
        self._llms = llms
        self._retries = retries
        self._call_timeout_s = call_timeout_s
        self._rng = rng
        self._now = now
        self._sleep = sleep

    async def handle(self, message: Message) -> Sequence[Record]:
        """Call and answer; raises ``PoisonError`` for a dispatch that no router of ours wrote."""
        name = message.text_header(messages.LLM)
        reply_to = message.text_header(messages.REPLY_TO)
        if not (name and reply_to and message.key and message.value):
            raise PoisonError("invalid_dispatch", "the dispatch lacks its LLM, reply topic, key or body")
        try:
            llm = self._find(name)
            answer, attempts = await self._call(llm, message)
        except _GaveUp as given_up:
            return [self._error_reply(message, reply_to, given_up)]
        facts: list[tuple[str, bytes]] = [(messages.ATTEMPT, str(attempts).encode())]
        if answer.usage is not None:
            cost = call_cost(
                llm.price,
                input_tokens=answer.usage.prompt_tokens,
                output_tokens=answer.usage.completion_tokens,
            )
            facts.append((messages.COST_USD, repr(cost).encode()))
        return [self._reply(message, reply_to, answer.value, tuple(facts))]

    def _find(self, name: str) -> CallableLLM:
        llm = self._llms().get(name)
        if llm is None:
            raise _GaveUp("llm_removed", f"LLM {name!r} was removed after this prompt was routed", attempts=0)
        return llm

    async def _call(self, llm: CallableLLM, message: Message) -> tuple[Answer, int]:
        deadline = _deadline(message)
        body = msgspec.json.decode(message.value or b"")
        prompt_id = (message.key or b"").decode()
        attempt = 0
        while True:
            attempt += 1
            left_s = (deadline - self._now()).total_seconds() if deadline else float("inf")
            if left_s <= 0:
                raise _GaveUp("expired", "the deadline passed before an answer came", attempts=attempt - 1)
            try:
                answer = await self._caller.call(
                    llm.endpoint, body, prompt_id=prompt_id, timeout_s=min(self._call_timeout_s, left_s)
                )
            except CallError as error:
                wait_s = self._retries.wait(attempt, error, left_s=left_s, rng=self._rng)
                if wait_s is None:
                    raise _GaveUp(error.error_class, error.sentence, attempts=attempt) from error
                await self._sleep(wait_s)
            else:
                return answer, attempt

    def _error_reply(self, message: Message, reply_to: str, given_up: "_GaveUp") -> Record:
        facts = ((messages.ATTEMPT, str(given_up.attempts).encode()),)
        value = messages.error_value(given_up.error_class, given_up.sentence)
        return self._reply(message, reply_to, value, facts)

    def _reply(self, message: Message, reply_to: str, value: bytes, facts: Headers) -> Record:
        event = messages.event_headers(
            event_id=(message.key or b"").decode(),
            event_type="uniroute.reply",
            source=_SOURCE,
            now=self._now(),
        )
        headers = (*event, *messages.carried(message, _CARRIED), *facts)
        return Record(topic=reply_to, key=message.key, value=value, headers=headers)


class _GaveUp(Exception):  # noqa: N818 (an outcome, not a fault of ours)
    """No answer came, and none will: what the error reply says."""

    def __init__(self, error_class: str, sentence: str, *, attempts: int) -> None:
        super().__init__(sentence)
        self.error_class = error_class
        self.sentence = sentence
        self.attempts = attempts


def _deadline(message: Message) -> datetime | None:
    text = message.text_header(messages.DEADLINE)
    return datetime.fromisoformat(text) if text else None
