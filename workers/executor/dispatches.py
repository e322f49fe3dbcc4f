"""From a message on a dispatch topic to what is asked of an executor."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from workers import messages
from workers.errors import PoisonError
from workers.executor.cascades import Cascade, HeldAnswer, read_cascade, read_held
from workers.messages import CallFact, LostCalls, Message
from workers.prompts import read_deadline, read_reply_topic
from workers.settings import Settings

#: English text has about four bytes to a token in every current tokenizer.
_BYTES_PER_TOKEN = 4.0
_MOST_TOKENS = 2.0**31
#: A weight so small that its inverse is still a number.
_LEAST_PRIORITY = 1e-9
_LIMIT_KEYS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
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
    #: Weight of the tenant among those that wait for a turn in the same lane.
    priority: float
    reserved_usd: float
    #: What the router said of the decision, empty or 0 where it said nothing: ``NAME@VERSION``, the expected
    #: USD, when the period of the policy's budget began, why it is degraded.
    policy: str
    expected_usd: float
    policy_period: int
    degraded: str
    #: The most that answering may cost; ``None`` where nobody set a limit.
    budget_usd: float | None
    #: Who may be called instead, in this order.
    fallbacks: tuple[str, ...]
    #: Calls that were made for it before it was handed on to this LLM.
    earlier_calls: tuple[CallFact, ...]
    #: Calls that were begun for it before then and ended with their process: how many, and by LLM all but
    #: those that an executor of an earlier version told of.
    earlier_repeated: int
    earlier_lost: tuple[LostCalls, ...]
    #: The LLM that the decision chose, where that is another.
    fallback_from: str
    #: What becomes of it when no LLM answers: one of ``ON_FAILURES``.
    on_failure: str
    #: Seconds for which an answer may be kept and given again; 0 for never.
    cache_s: float
    #: Judges the answer, where the prompt asked for it.
    cascade: Cascade | None
    #: What an LLM before this one answered without being sure enough.
    held: HeldAnswer | None
    #: Tokens of the prompt as the router estimated them.
    estimated_tokens: float | None = None

    @property
    def input_tokens(self) -> float:
        """Tokens of the prompt, estimated."""
        return self.estimated_tokens or max(1.0, len(self.message.value or b"") / _BYTES_PER_TOKEN)

    def lost_calls(self, begun: int, *, usd: float) -> tuple[LostCalls, ...]:
        """Tell all calls that ended with their process, ``begun`` of them at this LLM, at ``usd`` each.

        Those of LLMs that handed it on keep the price that these told; where they told none, a call here.
        """
        untold = self.earlier_repeated - sum(one.count for one in self.earlier_lost)
        priced = ((self.fallback_from or self.llm, untold), (self.llm, begun))
        added = (LostCalls(llm=llm, count=count, usd=count * usd) for llm, count in priced if count > 0)
        return (*self.earlier_lost, *added)

    def output_tokens(self, expected: float) -> float:
        """Tokens of an answer: as ``expected`` of the LLM, or as few as the body allows."""
        allowed = [
            value
            for key in _LIMIT_KEYS
            if isinstance(value := self.body.get(key), int) and not isinstance(value, bool) and value > 0
        ]
        return float(min([expected, *allowed]))


def read_dispatch(message: Message, settings: Settings) -> Dispatch:
    """Decode a dispatch.

    Raises ``PoisonError`` of class ``invalid_dispatch``, ``no_reply_topic``, ``illegal_reply_topic`` or
    ``bad_header`` for one that no router of ours wrote.
    """
    llm = message.text_header(messages.LLM)
    if not (llm and message.key and message.value):
        raise PoisonError("invalid_dispatch", "the dispatch lacks its LLM, key or body")
    try:
        prompt_id = message.key.decode()
        body = msgspec.json.decode(message.value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonError("invalid_dispatch", f"the dispatch cannot be read: {error}") from error
    fallbacks = message.text_header(messages.FALLBACKS) or ""
    return Dispatch(
        message=message,
        prompt_id=prompt_id,
        llm=llm,
        reply_to=read_reply_topic(message, settings),
        body=body,
        deadline=read_deadline(message),
        decision_id=message.text_header(messages.DECISION_ID) or "",
        tenant=message.text_header(messages.TENANT) or "",
        lane=message.text_header(messages.LANE) or "",
        priority=max(messages.number_header(message, messages.PRIORITY) or 1.0, _LEAST_PRIORITY),
        reserved_usd=messages.number_header(message, messages.RESERVED_USD) or 0.0,
        policy=message.text_header(messages.POLICY) or "",
        expected_usd=messages.number_header(message, messages.PREDICTED_COST_USD) or 0.0,
        policy_period=int(messages.number_header(message, messages.POLICY_PERIOD, most=2**32 - 1) or 0),
        degraded=message.text_header(messages.DEGRADED) or "",
        budget_usd=messages.number_header(message, messages.MAX_COST_USD),
        fallbacks=tuple(name for part in fallbacks.split(",") if (name := part.strip())),
        earlier_calls=messages.json_header(message, messages.CALLS, tuple[CallFact, ...]) or (),
        earlier_repeated=int(messages.number_header(message, messages.REPEATED_CALLS, most=1e6) or 0),
        earlier_lost=messages.json_header(message, messages.LOST_CALLS, tuple[LostCalls, ...]) or (),
        fallback_from=message.text_header(messages.FALLBACK_FROM) or "",
        on_failure=_read_choice(message),
        cascade=read_cascade(message.text_header(messages.CASCADE)),
        held=read_held(message.header(messages.HELD_ANSWER)),
        estimated_tokens=messages.number_header(message, messages.INPUT_TOKENS, most=_MOST_TOKENS),
        cache_s=messages.number_header(message, messages.CACHE_SECONDS) or 0.0,
    )


def _read_choice(message: Message) -> str:
    choice = message.text_header(messages.ON_FAILURE) or messages.ON_FAILURES[0]
    if choice not in messages.ON_FAILURES:
        known = ", ".join(messages.ON_FAILURES)
        raise PoisonError("bad_header", f"header {messages.ON_FAILURE} is {choice[:40]!r}: known are {known}")
    return choice
