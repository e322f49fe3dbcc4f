"""Asking an endpoint of its own how likely an answer is right, with the bill of it."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from workers.calls.endpoints import Answer, Endpoint, EndpointCaller
from workers.calls.errors import CallError
from workers.calls.gates import Admission, Gate, GateClosedError
from workers.cascades import Scorer
from workers.executor.bills import Bill
from workers.executor.dispatches import Dispatch
from workers.messages import SCORER


class _Said(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Said


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Given(msgspec.Struct):
    message: msgspec.Raw


class _Answered(msgspec.Struct):
    choices: list[_Given]


class _Score(msgspec.Struct):
    score: float


class Scorers:
    """Asks scorers; each has a gate of its own, so that one which fails is left alone for a while."""

    def __init__(self, caller: EndpointCaller, *, most: int) -> None:
        self._caller = caller
        self._most = most
        self._gates: dict[tuple[str, str], Gate] = {}

    async def score(
        self,
        scorer: Scorer,
        dispatch: Dispatch,
        answer: bytes,
        bill: Bill,
        *,
        timeout_s: float,
        begin: Callable[[], Awaitable[None]],
    ) -> float | None:
        """Give what a scorer says of an answer, in 0..1; ``None`` where it says nothing usable in time.

        It is asked once: an answer that nobody vouches for is passed on. ``begin`` is awaited before it is.
        What it costs is on the bill; where the prompt's budget does not cover it, it is not asked.
        """
        body = scorer.write_request(dispatch.body.get("messages"), _read_message(answer))
        tokens = scorer.request_tokens(body)
        estimate_usd = scorer.estimate_usd(tokens)
        if timeout_s <= 0 or (
            dispatch.budget_usd is not None and bill.spent_usd + estimate_usd > dispatch.budget_usd
        ):
            return None
        clock = asyncio.get_running_loop().time
        until = clock() + min(scorer.timeout_s, timeout_s)
        gate = self._gates.setdefault((scorer.base_url, scorer.model), Gate(most=self._most, clock=clock))
        admission = await _admit(gate, dispatch.lane, tokens, until, begin)
        if admission is None:
            return None
        began = clock()
        outcome: Answer | CallError = CallError("cancelled", "the call was given up in flight")
        try:
            outcome = await self._call(
                scorer, body, dispatch, timeout_s=until - began, attempt=bill.attempts + 1
            )
        except BaseException:
            gate.abandon(admission)
            raise
        finally:  # a call that is cancelled in flight may be billed too
            bill.add(
                SCORER,
                scorer.price,
                outcome.usage if isinstance(outcome, Answer) else outcome,
                seconds=clock() - began,
                estimate_usd=estimate_usd,
            )
        gate.leave(admission, None if isinstance(outcome, Answer) else outcome)
        return _read_answer(outcome.value) if isinstance(outcome, Answer) else None

    async def _call(
        self, scorer: Scorer, body: dict[str, object], dispatch: Dispatch, *, timeout_s: float, attempt: int
    ) -> Answer | CallError:
        endpoint = Endpoint(
            llm=SCORER,
            base_url=scorer.base_url,
            provider_model=scorer.model,
            api_key_ref=scorer.api_key_ref,
        )
        try:
            return await self._caller.call(
                endpoint, body, prompt_id=dispatch.prompt_id, timeout_s=timeout_s, attempt=attempt
            )
        except CallError as error:
            return error


async def _admit(
    gate: Gate, lane: str, tokens: float, until: float, begin: Callable[[], Awaitable[None]]
) -> Admission | None:
    """Wait for a turn, and until the log knows of the call; ``None`` where there is none in time."""
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout_at(until):
            admission = await gate.admit(lane, tokens=tokens, patient=False)
    except (GateClosedError, TimeoutError):
        return None
    try:
        await begin()
    except BaseException:
        gate.abandon(admission)
        raise
    if clock() >= until:
        gate.abandon(admission)
        return None
    return admission


def _read_message(answer: bytes) -> msgspec.Raw:
    return msgspec.json.decode(answer, type=_Answered).choices[0].message


def _read_answer(answer: bytes) -> float | None:
    try:
        return read_score(msgspec.json.decode(answer, type=_Completion).choices[0].message.content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_score(said: str) -> float | None:
    """Read ``0.8`` or ``{"score": 0.8}``; ``None`` for what is said otherwise, or is no chance."""
    try:
        found = msgspec.json.decode(said.strip(), type=float | _Score)
    except (msgspec.MsgspecError, RecursionError):
        return None
    score = found.score if isinstance(found, _Score) else found
    return score if 0.0 <= score <= 1.0 else None
