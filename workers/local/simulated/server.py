"""The simulated LLMs' HTTP server: OpenAI's chat.completions, an account of calls, faults on demand."""

import asyncio
import hashlib
import resource
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from workers.errors import UsageError
from workers.local.simulated.answers import AnswerSource, Outcome
from workers.local.simulated.calls import CallLog, ReceivedCall
from workers.local.simulated.completions import (
    BadRequestError,
    ChatRequest,
    Completion,
    cut_outcome,
    error_body,
    models_body,
    read_request,
)
from workers.local.simulated.faults import (
    Call,
    Hang,
    HugeBody,
    MissingUsage,
    Plan,
    RateLimit,
    Scenario,
    ServerError,
    fault_kind,
    parse_scenario,
    plan_call,
)
from workers.local.simulated.scorer import SCORER, score_answer
from workers.local.simulated.sending import Payload, send

#: A caller names its prompt here, percent-encoded; ``metadata.prompt_id``, ``user`` and the text come after.
PROMPT_ID_HEADER = "x-uniroute-prompt-id"
#: And here which try this is, from 1: a caller that lost its memory in a crash begins anew.
ATTEMPT_HEADER = "x-uniroute-attempt"
_JSON = "application/json"
_MOST_BODY_BYTES = 64 * 2**20
_BACKLOG = 4096
_WANTED_FILES = 16_384


class SimulatedServer:
    """Serves the LLMs of an :class:`~.answers.AnswerSource` on 127.0.0.1.

    ``POST /v1/chat/completions`` (``stream`` too) and ``GET /v1/models`` as OpenAI's; ``GET /counts`` and
    ``GET /calls[?llm=NAME]`` tell what was called; ``GET /faults`` and ``PUT /faults`` show and replace the
    scenario, whose clock then starts anew. Answers take their LLM's latency times ``latency_scale``. One LLM
    more, ``sim-scorer``, says how likely an answer is right.
    """

    def __init__(
        self,
        source: AnswerSource,
        *,
        scenario: Scenario | None = None,
        latency_scale: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._names = (*(llm.name for llm in source.llms), SCORER)
        self._scenario = scenario or Scenario()
        self._latency_scale = latency_scale
        self._clock = clock
        self._started = self._scenario_set = clock()
        self._log = CallLog()
        self._finding = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self, *, port: int = 0) -> str:
        """Listen on 127.0.0.1, on a free port where ``port`` is 0, and give the URL (without ``/v1``)."""
        _allow_open_files()
        app = web.Application(client_max_size=_MOST_BODY_BYTES)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._complete),
                web.get("/v1/models", self._list_models),
                web.get("/counts", self._show_counts),
                web.get("/calls", self._show_calls),
                web.get("/faults", self._show_faults),
                web.put("/faults", self._set_faults),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, backlog=_BACKLOG)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening and drop what is in flight."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            chat = read_request(await request.read(), models=self._names)
        except BadRequestError as error:
            body = error_body(str(error), kind="invalid_request_error", param=error.param, code=error.code)
            return web.Response(status=error.status, body=body, content_type=_JSON)
        known, label = await self._identify(request, chat)
        now = self._clock()
        attempt = request.headers.get(ATTEMPT_HEADER, "")
        received = self._log.receive(
            label,
            chat.model,
            at_s=now - self._started,
            callers_attempt=int(attempt) if attempt.isdecimal() else None,
        )
        plan = self._plan(received, now)
        received.fault = fault_kind(plan.fault)
        refusal = _refuse(plan)
        if refusal is not None:
            return refusal
        if chat.model == SCORER:
            outcome = score_answer(self._source, known, chat.text)
        else:
            outcome = self._source.answer(chat.model, known, chat.text)
        await self._wait(plan, outcome)
        payload = _write(chat, outcome, plan)
        response, received.answered = await send(request, payload, plan.fault)
        return response

    async def _identify(self, request: web.Request, chat: ChatRequest) -> tuple[str | None, str]:
        """Find the prompt: its id where the source knows it, and what it is counted under."""
        header = request.headers.get(PROMPT_ID_HEADER)
        given = None if header is None else unquote(header)
        for name in (given, *chat.named_ids):
            if name is not None and self._source.knows(name):
                return name, name
        async with self._finding:
            found = await asyncio.to_thread(self._source.find, chat.text)
        return found, given or found or f"text-{hashlib.sha256(chat.text.encode()).hexdigest()[:16]}"

    def _plan(self, received: ReceivedCall, now: float) -> Plan:
        call = Call(
            llm=received.llm,
            prompt_id=received.prompt_id,
            attempt=received.attempt,
            at_s=now - self._scenario_set,
            earlier_calls=received.earlier_calls,
        )
        return plan_call(self._scenario, call)

    async def _wait(self, plan: Plan, outcome: Outcome) -> None:
        seconds = outcome.latency_s * self._latency_scale * plan.latency_scale + plan.extra_s
        if isinstance(plan.fault, Hang):
            seconds += plan.fault.hang_s
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _list_models(self, _request: web.Request) -> web.Response:
        return web.Response(body=models_body(self._source.llms, created=0), content_type=_JSON)

    async def _show_counts(self, _request: web.Request) -> web.Response:
        return web.json_response(self._log.summary())

    async def _show_calls(self, request: web.Request) -> web.Response:
        return web.json_response({"calls": self._log.calls(request.query.get("llm"))})

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(_as_builtins(self._scenario))

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            content = await request.json()
            self._scenario = parse_scenario(content, source="the request", llms=self._names)
        except (UsageError, ValueError) as error:
            body = error_body(str(error), kind="invalid_request_error")
            return web.Response(status=400, body=body, content_type=_JSON)
        self._scenario_set = self._clock()
        return web.json_response(_as_builtins(self._scenario))


def _refuse(plan: Plan) -> web.Response | None:
    """Give the error of a call that gets no answer."""
    match plan.fault:
        case RateLimit(retry_after_s=seconds):
            headers = {} if seconds is None else {"retry-after": f"{seconds:g}"}
            body = error_body("Rate limit reached (simulated).", kind="requests", code="rate_limit_exceeded")
            return web.Response(status=429, body=body, headers=headers, content_type=_JSON)
        case ServerError(status=status):
            body = error_body("The server had an error (simulated).", kind="server_error")
            return web.Response(status=status, body=body, content_type=_JSON)
        case _:
            return None


def _write(chat: ChatRequest, outcome: Outcome, plan: Plan) -> Payload:
    """Write the answer as asked for, less its usage or padded where the plan wants it so."""
    cut, finish_reason = cut_outcome(outcome, chat.max_tokens)
    if isinstance(plan.fault, HugeBody):
        cut = replace(cut, text=cut.text + " " + "x" * int(plan.fault.megabytes * 1e6))
    completion = Completion(
        completion_id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        llm=chat.model,
        outcome=cut,
        finish_reason=finish_reason,
        with_usage=not isinstance(plan.fault, MissingUsage),
    )
    if chat.stream:
        return Payload(body=completion.as_events(usage=chat.stream_usage), content_type="text/event-stream")
    return Payload(body=completion.as_json(), content_type=_JSON)


def _as_builtins(scenario: Scenario) -> Any:  # noqa: ANN401 (JSON)
    return msgspec.to_builtins(scenario)


def _allow_open_files() -> None:
    """Raise this process's limit of open files towards what thousands of connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
