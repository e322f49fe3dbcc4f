"""What an executor does with one dispatch, from reading it to its reply."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from workers import messages
from workers.calls.endpoints import Answer, EndpointCaller
from workers.calls.errors import CallError
from workers.calls.gates import Admission, Gate, GateClosedError
from workers.calls.retries import RetryPolicy
from workers.cancels import Cancelled, Cancels
from workers.errors import WaitableError
from workers.executor.bills import Bill
from workers.executor.cache import AnswerCache, cache_key
from workers.executor.cascades import HeldAnswer, better_held
from workers.executor.dispatches import Dispatch, read_dispatch
from workers.executor.gates import Gates
from workers.executor.llms import CallableLLM
from workers.executor.records import (
    failure_letter,
    handed_on,
    holding,
    reply_record,
    settled_for,
    usage_record,
)
from workers.executor.scoring import Scorers
from workers.messages import Message, Record
from workers.settings import Settings
from workers.topics import Topics
from workers.transactions.call_work import Start
from workers.transactions.work import Rejection, reject

#: How long an LLM that a dispatch names may be missing from a registry that can be read.
_REGISTRY_LAG_S = 10.0
_REGISTRY_POLL_S = 0.5
#: A turn that was given so long before the log knew of the call is taken anew: the pace is the endpoint's.
_STALE_TURN_S = 0.25
#: Nobody waits longer for an answer that another prompt is getting.
_LONGEST_WAIT_S = 3_600.0
#: Nobody waits longer for an LLM whose breaker stays open.
_PATIENCE_S = 120.0
#: Classes of errors after which another LLM may do better.
_FALLS_BACK = frozenset(
    {"rate_limit", "timeout", "server", "connection", "bad_response", "auth", "context_window", "unknown_llm"}
)
#: Ends that nobody would want to try again.
_WANTED_ENDS = frozenset({"cancelled", "expired", "abstained"})


class _GaveUp(Exception):  # noqa: N818 (an outcome, not a fault of ours)
    """No answer came from the LLM, and none will."""

    def __init__(self, error_class: str, sentence: str) -> None:
        super().__init__(sentence)
        self.error_class = error_class
        self.sentence = sentence


class Executor:
    """Turns one dispatch into one reply, an error reply included, and one record of what that took.

    ``llms`` gives the callable LLMs by name, as they were last read; ``is_stale`` tells whether they cannot
    be read now. Whatever the endpoint does, ``handle`` gives exactly one of: a reply; the dispatch handed on
    to the next of its fallbacks; where the prompt asked for it, a dead letter. Only a dispatch that no router
    of ours wrote is poison.
    """

    def __init__(
        self,
        *,
        caller: EndpointCaller,
        llms: Callable[[], Mapping[str, CallableLLM]],
        retries: RetryPolicy,
        settings: Settings,
        rng: random.Random,
        gates: Gates | None = None,
        cancels: Cancels | None = None,
        cache: AnswerCache | None = None,
        is_stale: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._caller = caller
        self._llms = llms
        self._retries = retries
        self._settings = settings
        self._rng = rng
        self._topics = Topics(settings.topic_prefix)
        self._gates = gates or Gates(topics=self._topics, most=settings.max_in_flight)
        self._cancels = cancels or Cancels()
        self._cache = cache
        self._scorers = Scorers(caller, most=settings.max_in_flight)
        self._is_stale = is_stale
        self._now = now
        self._sleep = sleep

    async def handle(self, message: Message, start: Start) -> Sequence[Record]:
        """Call and answer; ``start`` is awaited before the first call.

        Raises ``PoisonError`` of class ``invalid_dispatch``, ``no_reply_topic``, ``illegal_reply_topic`` or
        ``bad_header`` for a dispatch that cannot be read, ``unknown_topic`` where its reply has no topic. An
        error of ours that comes when calls are on the bill, those of earlier lives too, ends the dispatch,
        since to begin anew would pay for them again: it is a dead letter then, and what it cost is booked.
        """
        dispatch = read_dispatch(message, self._settings)
        known = self._llms().get(dispatch.llm)
        usd = dispatch.expected_usd if known is None else known.estimate_for(dispatch)
        lost = dispatch.lost_calls(start.earlier, usd=usd)
        bill = Bill(started=self._now(), calls=list(dispatch.earlier_calls), lost=lost)
        try:
            return await self._handle(dispatch, bill, start)
        except Exception as error:
            called = bill.attempts > len(dispatch.earlier_calls)
            waits = isinstance(error, WaitableError) and not called
            if waits or not (bill.calls or bill.lost):
                raise
            rejection = reject(error, attempts=1)
            bill.outcome = rejection.error_class
            return [
                failure_letter(dispatch, rejection, bill, self._topics, answered=False),
                usage_record(dispatch, bill, self._topics, now=self._now()),
            ]

    async def _handle(self, dispatch: Dispatch, bill: Bill, start: Start) -> Sequence[Record]:
        try:
            with self._cancels.watch(dispatch.prompt_id):
                value = await self._answer_once(dispatch, bill, start)
                bill.chance = await self._weigh(dispatch, bill, value, start)
        except Cancelled as cancelled:
            return self._fail(dispatch, bill, _GaveUp("cancelled", str(cancelled)))
        except _GaveUp as given_up:
            following = self._stand_in(dispatch) if given_up.error_class in _FALLS_BACK else None
            if following is not None:
                return [handed_on(dispatch, bill, self._topics, to=following)]
            if dispatch.held is not None:
                if self._time_left(dispatch) > 0:
                    return self._settle_for(dispatch, dispatch.held, bill, given_up)
                given_up = _expired()
            return self._fail(dispatch, bill, given_up)
        return self._judge(dispatch, bill, value)

    async def _weigh(self, dispatch: Dispatch, bill: Bill, value: bytes, start: Start) -> float | None:
        """Give the chance that an answer is right, where the prompt asked for it and somebody can tell."""
        cascade = dispatch.cascade
        if cascade is None:
            return None
        if cascade.scorer is None:
            return cascade.chance(dispatch.llm, cascade.confidence(value))
        compared = cascade.weighs_all or (cascade.by_gain and dispatch.held is not None)
        if not compared and cascade.next_llm(None, self._askable(dispatch, bill)) is None:
            return None  # it is taken whatever anybody says of it

        async def begin() -> None:
            # The log knows already, but for an answer that was kept: then the scorer's is the first call.
            await start(dispatch.reply_to, self._topics.usage)
            start.sending()

        score = await self._scorers.score(
            cascade.scorer, dispatch, value, bill, timeout_s=self._time_left(dispatch), begin=begin
        )
        return cascade.chance(dispatch.llm, score)

    def _judge(self, dispatch: Dispatch, bill: Bill, value: bytes) -> list[Record]:
        """Answer; in a cascade only where the answer is likely right or nobody else is worth asking."""
        cascade = dispatch.cascade
        if cascade is None:
            return self._finish(dispatch, bill, value)
        answer = HeldAnswer(llm=dispatch.llm, chance=bill.chance, value=msgspec.Raw(value))
        best = better_held(dispatch.held, answer)
        following = cascade.next_llm(best.chance, self._askable(dispatch, bill))
        action = cascade.judge(best.chance, is_last=following is None)
        if action == "abstain":
            return self._fail(dispatch, bill, _GaveUp("abstained", "no LLM is likely to answer this rightly"))
        if action == "escalate" and following is not None:
            return [handed_on(holding(dispatch, best), bill, self._topics, to=following)]
        hopeless = cascade.judge(bill.chance, is_last=following is None) == "abstain"
        if best is not answer and (cascade.by_gain or hopeless):
            return self._settle_for(dispatch, best, bill)
        return self._finish(dispatch, bill, value)

    def _askable(self, dispatch: Dispatch, bill: Bill) -> list[str]:
        """Give those who stand in and are registered, and whom the deadline and the budget leave room for."""
        if self._time_left(dispatch) <= 0:
            return []
        return [
            name
            for name in dispatch.fallbacks
            if (llm := self._llms().get(name)) is not None
            and bill.leaves_room_for(llm.estimate_for(dispatch), dispatch.budget_usd)
        ]

    def _stand_in(self, dispatch: Dispatch) -> str | None:
        """Give who is asked where an LLM gave no answer: by gain, where a cascade weighs; else the next."""
        known = [name for name in dispatch.fallbacks if name in self._llms()]
        if not known and self._is_stale():
            known = list(dispatch.fallbacks)  # one may have joined since the registry was last read
        if not known:
            return None
        if dispatch.cascade is not None and dispatch.cascade.by_gain:
            held = dispatch.held
            following = dispatch.cascade.next_llm(None if held is None else held.chance, known)
            if following is not None or held is not None:
                return following
        return known[0]

    def _finish(self, dispatch: Dispatch, bill: Bill, value: bytes) -> list[Record]:
        now = self._now()
        return [
            reply_record(dispatch, value, bill, now=now),
            usage_record(dispatch, bill, self._topics, now=now),
        ]

    def _settle_for(
        self, dispatch: Dispatch, held: HeldAnswer, bill: Bill, given_up: _GaveUp | None = None
    ) -> list[Record]:
        """Answer with what an LLM before this one said: likelier than this one's answer, or than none."""
        if given_up is not None:
            bill.outcome = given_up.error_class
        bill.chance, now = held.chance, self._now()
        settled = settled_for(dispatch, held, degraded=given_up is not None)
        return [
            reply_record(settled, bytes(held.value), bill, now=now),
            usage_record(dispatch, bill, self._topics, now=now),
        ]

    def _fail(self, dispatch: Dispatch, bill: Bill, given_up: _GaveUp) -> list[Record]:
        """Tell the caller, keep a dead letter, or both, as the prompt asked."""
        bill.outcome = given_up.error_class
        reply, usage = self._finish(
            dispatch, bill, messages.error_value(given_up.error_class, given_up.sentence)
        )
        if dispatch.on_failure == "reply" or given_up.error_class in _WANTED_ENDS:
            return [reply, usage]
        rejection = Rejection(
            error_class=given_up.error_class,
            sentence=given_up.sentence,
            attempts=bill.attempts,
            disposition="exhausted",
        )
        answered = dispatch.on_failure == "both"
        letter = failure_letter(dispatch, rejection, bill, self._topics, answered=answered)
        return [letter, usage] if dispatch.on_failure == "dead-letter" else [reply, letter, usage]

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

    async def _answer_once(self, dispatch: Dispatch, bill: Bill, start: Start) -> bytes:
        """Answer from what is kept, where the caller lets it; else call."""
        left_s = self._left_s(dispatch)
        llm = await self._find(dispatch.llm)
        if not dispatch.cache_s or self._cache is None:
            return await self._answer(dispatch, llm, bill, start)
        try:
            async with asyncio.timeout(min(left_s, _LONGEST_WAIT_S)):
                value, bill.cache = await self._cache.answer(
                    cache_key(dispatch, llm.endpoint),
                    keep_s=dispatch.cache_s,
                    make=lambda: self._answer(dispatch, llm, bill, start),
                )
        except TimeoutError:
            raise _expired() from None
        return value

    async def _answer(self, dispatch: Dispatch, llm: CallableLLM, bill: Bill, start: Start) -> bytes:
        """Call until an answer comes or there is no use in another call: the one retry loop."""
        gate = self._gates.gate(dispatch.llm, llm.limits)
        tokens = dispatch.input_tokens + dispatch.output_tokens(llm.output_tokens)
        estimate_usd = llm.estimate_for(dispatch)
        calls, bill.lost = 0, dispatch.lost_calls(start.earlier, usd=estimate_usd)
        while True:
            _check_budget(dispatch, bill, estimate_usd)
            admission = await self._admit(gate, dispatch, tokens, start, called=calls > 0)
            calls += 1
            began = self._now()
            outcome: Answer | CallError = CallError("cancelled", "the call was given up in flight")
            try:
                outcome = await self._call(llm, gate, dispatch, admission, start, attempt=calls)
            finally:  # a call that is cancelled in flight may be billed too
                bill.price_version = llm.price_version
                bill.add(
                    dispatch.llm,
                    llm.price,
                    outcome.usage if isinstance(outcome, Answer) else outcome,
                    seconds=(self._now() - began).total_seconds(),
                    estimate_usd=estimate_usd,
                    price_version=llm.price_version,
                )
            if isinstance(outcome, Answer):
                bill.answered = outcome.usage
                return outcome.value
            wait_s = self._retries.wait(calls, outcome, left_s=self._time_left(dispatch), rng=self._rng)
            if wait_s is None:
                self._left_s(dispatch)
                raise _GaveUp(outcome.error_class, outcome.sentence) from outcome
            with start.resting():
                await self._sleep(wait_s)

    async def _admit(
        self, gate: Gate, dispatch: Dispatch, tokens: float, start: Start, *, called: bool
    ) -> Admission:
        """Wait for a turn at the LLM, and before the first call until the log knows of it."""
        while True:
            left_s = self._left_s(dispatch)
            try:
                with start.resting():
                    async with asyncio.timeout(min(left_s, _PATIENCE_S)):
                        admission = await gate.admit(
                            dispatch.lane,
                            tokens=tokens,
                            patient=not dispatch.fallbacks,
                            tenant=dispatch.tenant,
                            weight=dispatch.priority,
                        )
            except GateClosedError as error:
                raise _GaveUp(error.cause, str(error)) from error
            except TimeoutError:
                if gate.state != "closed":
                    raise _GaveUp(gate.cause, str(GateClosedError(gate.cause))) from None
                continue  # a long backlog, or the deadline
            try:
                await start(dispatch.reply_to, self._topics.usage)
                self._left_s(dispatch)
            except BaseException:
                gate.abandon(admission)
                raise
            if gate.is_fresh(admission, _STALE_TURN_S):
                return admission
            gate.abandon(admission)
            if not called:
                start.withdraw()  # a long wait may follow, and whoever takes over counts what was begun

    async def _call(
        self, llm: CallableLLM, gate: Gate, dispatch: Dispatch, turn: Admission, start: Start, *, attempt: int
    ) -> Answer | CallError:
        try:
            answer = await self._caller.call(
                llm.endpoint,
                dispatch.body if dispatch.cascade is None else dispatch.cascade.ask(dispatch.body),
                prompt_id=dispatch.prompt_id,
                timeout_s=min(self._settings.call_timeout_s, self._time_left(dispatch)),
                attempt=attempt,
                on_send=start.sending,
            )
        except CallError as error:
            gate.leave(turn, error)
            return error
        except BaseException:
            gate.abandon(turn)
            raise
        usage = answer.usage
        gate.block(answer.pressure_s)
        gate.leave(turn, None, tokens=None if usage is None else usage.total)
        return answer

    def _time_left(self, dispatch: Dispatch) -> float:
        return (dispatch.deadline - self._now()).total_seconds() if dispatch.deadline else float("inf")

    def _left_s(self, dispatch: Dispatch) -> float:
        """Give the seconds to the deadline; give up where it is past."""
        left_s = self._time_left(dispatch)
        if left_s <= 0:
            raise _expired()
        return left_s


def _expired() -> _GaveUp:
    return _GaveUp("expired", "the deadline passed before an answer came")


def _check_budget(dispatch: Dispatch, bill: Bill, estimate_usd: float) -> None:
    """Refuse one more call that the prompt's budget does not cover; the first was decided on."""
    if not (bill.calls or bill.lost) or bill.leaves_room_for(estimate_usd, dispatch.budget_usd):
        return
    ends = f", the last of which ended as {bill.calls[-1].outcome}," if bill.calls else ""
    lost = f" and {bill.repeated_calls} that ended with their process" if bill.lost else ""
    raise _GaveUp(
        "budget",
        f"after {bill.attempts} calls{ends}{lost} another would pass the {dispatch.budget_usd:g} USD that "
        "the prompt may cost",
    )
