"""What an executor produces for a dispatch: the reply, the usage, and what is handed on or given up."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from workers import messages
from workers.executor.bills import Bill
from workers.executor.cascades import HeldAnswer
from workers.executor.dispatches import Dispatch
from workers.messages import CallFact, Headers, Record
from workers.topics import MAX_RECORD_BYTES, Topics
from workers.transactions.dead_letters import ANSWERED_HEADER, BOOKED_HEADER, dead_letter
from workers.transactions.work import Rejection

#: What travels on from a dispatch to its reply.
_CARRIED = (
    messages.LLM,
    messages.POLICY,
    messages.PREDICTED_ERROR,
    messages.PREDICTED_COST_USD,
    messages.RESERVED_USD,
    messages.VERSIONS,
    messages.DEGRADED,
    messages.FALLBACK_FROM,
    messages.TRACEPARENT,
)
#: What is not taken over where a dispatch is handed on.
_REPLACED = (
    messages.LLM,
    messages.FALLBACKS,
    messages.CALLS,
    messages.REPEATED_CALLS,
    messages.LOST_CALLS,
    messages.FALLBACK_FROM,
)
#: What a dead letter says anew of what was tried.
_RETOLD = (messages.CALLS, messages.REPEATED_CALLS, messages.LOST_CALLS, messages.UNSETTLED_USD)
_SOURCE = "/executor"
#: A larger answer is not held: it would crowd out the prompt.
_MOST_HELD_BYTES = 256 * 1024

_encoder = msgspec.json.Encoder()


def reply_record(
    dispatch: Dispatch, value: bytes, bill: Bill, *, now: datetime, more: Headers = ()
) -> Record:
    """Answer on the caller's topic, with the facts of the decision and of the calls.

    An answer of a fallback carries no decision id: feedback that quoted it would be counted for the LLM that
    was decided on and did not answer.
    """
    event = messages.event_headers(
        event_id=dispatch.prompt_id, event_type="uniroute.reply", source=_SOURCE, now=now
    )
    decided = () if dispatch.fallback_from else messages.carried(dispatch.message, (messages.DECISION_ID,))
    headers = (*event, *decided, *messages.carried(dispatch.message, _CARRIED), *_facts(bill), *more)
    return Record(topic=dispatch.reply_to, key=dispatch.message.key, value=value, headers=headers)


def usage_record(dispatch: Dispatch, bill: Bill, topics: Topics, *, now: datetime) -> Record:
    """Say what answering took. The same dispatch gets the same ``usage_id`` each time."""
    message, answered = dispatch.message, bill.answered
    record = messages.UsageRecord(
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
        cached_tokens=0 if answered is None else answered.cached_tokens,
        cost_usd=bill.cost_usd,
        unsettled_usd=bill.unsettled_usd,
        reserved_usd=dispatch.reserved_usd,
        policy=dispatch.policy,
        expected_usd=dispatch.expected_usd,
        policy_period=dispatch.policy_period,
        degraded=dispatch.degraded,
        price_version=bill.price_version,
        estimated_tokens=dispatch.estimated_tokens,
        calls=tuple(bill.calls),
    )
    event = messages.event_headers(
        event_id=record.usage_id, event_type=messages.USAGE_EVENT, source=_SOURCE, now=now
    )
    return Record(
        topic=topics.usage,
        key=message.key,
        value=messages.encode(record),
        headers=(*event, *messages.carried(message, (messages.TRACEPARENT,))),
    )


def handed_on(dispatch: Dispatch, bill: Bill, topics: Topics, *, to: str) -> Record:
    """Dispatch to one of the fallbacks, in the same transaction: its executors keep its limits."""
    rest = [name for name in dispatch.fallbacks if name != to]
    kept = tuple(header for header in dispatch.message.headers if header[0] not in _REPLACED)
    headers: Headers = (
        *kept,
        (messages.LLM, to.encode()),
        (messages.FALLBACKS, ",".join(rest).encode()),
        (messages.FALLBACK_FROM, (dispatch.fallback_from or dispatch.llm).encode()),
        (messages.CALLS, encode_calls(bill.calls)),
        *_repeated(bill),
    )
    return Record(
        topic=topics.dispatch(to, dispatch.lane),
        key=dispatch.message.key,
        value=dispatch.message.value,
        headers=headers,
    )


def holding(dispatch: Dispatch, held: HeldAnswer) -> Dispatch:
    """Give the dispatch with an answer to fall back on, where that is not too large to travel."""
    header = msgspec.json.encode(held)
    if len(header) > min(_MOST_HELD_BYTES, MAX_RECORD_BYTES // 2 - len(dispatch.message.value or b"")):
        return dispatch
    return _with_headers(dispatch, {messages.HELD_ANSWER: header})


def settled_for(dispatch: Dispatch, held: HeldAnswer, *, degraded: bool) -> Dispatch:
    """Give the dispatch as if the LLM of the answer that was held had been the last.

    It is ``degraded`` where that is for want of another answer.
    """
    chosen = dispatch.fallback_from == held.llm
    changed = _with_headers(
        dispatch,
        {
            messages.LLM: held.llm.encode(),
            **({messages.DEGRADED: b"held_answer"} if degraded else {}),
            messages.FALLBACK_FROM: None if chosen else dispatch.fallback_from.encode(),
        },
    )
    return replace(changed, llm=held.llm, fallback_from="" if chosen else dispatch.fallback_from)


def _with_headers(dispatch: Dispatch, changes: Mapping[str, bytes | None]) -> Dispatch:
    kept = tuple(header for header in dispatch.message.headers if header[0] not in changes)
    added = tuple((name, value) for name, value in changes.items() if value is not None)
    return replace(dispatch, message=replace(dispatch.message, headers=(*kept, *added)))


def failure_letter(
    dispatch: Dispatch, rejection: Rejection, bill: Bill, topics: Topics, *, answered: bool
) -> Record:
    """Keep a dispatch that nobody answered, with what was tried: redriven unless its caller was ``answered``.

    It says that its calls are booked: a record of usage goes with it.
    """
    letter = dead_letter(
        dispatch.message,
        error_class=rejection.error_class,
        sentence=rejection.sentence,
        attempts=bill.attempts,
        topic_prefix=topics.prefix,
        disposition=rejection.disposition,
    )
    kept = tuple(header for header in letter.headers if header[0] not in _RETOLD)
    return Record(
        topic=letter.topic,
        key=letter.key,
        value=letter.value,
        headers=(
            *kept,
            (messages.CALLS, encode_calls(bill.calls)),
            *_repeated(bill),
            *_unsettled(bill),
            (BOOKED_HEADER, b"true"),
            *(((ANSWERED_HEADER, b"true"),) if answered else ()),
        ),
    )


def encode_calls(calls: Sequence[CallFact]) -> bytes:
    """Write what each call took, as JSON arrays."""
    return _encoder.encode(tuple(calls))


def _facts(bill: Bill) -> Headers:
    facts: list[tuple[str, bytes]] = [(messages.ATTEMPT, str(bill.attempts).encode())]
    if bill.calls:
        facts.append((messages.CALLS, encode_calls(bill.calls)))
    facts += _repeated(bill)
    if bill.chance is not None:
        facts.append((messages.CHANCE, repr(bill.chance).encode()))
    if bill.cache:
        facts.append((messages.CACHE, bill.cache.encode()))
    if bill.cost_usd is not None:
        facts.append((messages.COST_USD, repr(bill.cost_usd).encode()))
    return (*facts, *_unsettled(bill))


def _repeated(bill: Bill) -> Headers:
    if not bill.lost:
        return ()
    return (
        (messages.REPEATED_CALLS, str(bill.repeated_calls).encode()),
        (messages.LOST_CALLS, _encoder.encode(bill.lost)),
    )


def _unsettled(bill: Bill) -> Headers:
    usd = bill.unsettled_usd
    return ((messages.UNSETTLED_USD, repr(usd).encode()),) if usd else ()
