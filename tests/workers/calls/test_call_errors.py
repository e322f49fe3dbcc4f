"""The classification table: each answer of an endpoint, as the real openai client reports it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.errors import CallError
from workers.calls.pressure import read_pressure, read_wait

KEY = "sk-secret-0123456789"
BODY = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "ok"}}]}
Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(
    status: int, content: object = None, *, headers: Mapping[str, str] | None = None, raw: bytes | None = None
) -> Respond:
    """Answer every request with this."""

    async def respond(_: web.Request) -> web.StreamResponse:
        body = json.dumps(content).encode() if raw is None else raw
        return web.Response(status=status, body=body, headers=headers, content_type="application/json")

    return respond


def refuse(
    status: int, message: str = "no", *, code: str | None = None, kind: str = "t", **headers: str
) -> Respond:
    """Answer every request with an error in OpenAI's shape."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(status, {"error": {"message": message, "type": kind, "code": code}}, headers=named)


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def trickle(request: web.Request) -> web.StreamResponse:
    """Send a byte now and then, for longer than any test has time."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(600):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


def call(
    respond: Respond,
    *,
    key_ref: str = "",
    timeout_s: float = 5.0,
    base_url: str | None = None,
    body: Mapping[str, Any] = BODY,
) -> Any:
    """Call a server that responds like this, once; give its answer."""

    async def run() -> Any:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", respond)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = base_url or f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        endpoint = Endpoint(llm="large", base_url=url, provider_model="large-2026", api_key_ref=key_ref)
        caller = EndpointCaller(timeout_s=5.0, max_connections=4)
        try:
            return await caller.call(endpoint, dict(body), prompt_id="p-1", timeout_s=timeout_s)
        finally:
            await caller.close()
            await runner.cleanup()

    return asyncio.run(run())


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


@pytest.mark.parametrize("choices", [[], None, "text", [{"message": None}]])
def test_what_is_no_answer_is_paid_all_the_same(choices: object) -> None:
    """A completion without choices says what it used: it is booked, and not paid for again."""
    with pytest.raises(CallError) as failure:
        call(answer(200, {"choices": choices, "usage": USAGE}))

    assert failure.value.error_class == "bad_response"
    assert not failure.value.retryable
    assert failure.value.usage is not None
    assert failure.value.usage.total == 10


async def break_off(request: web.Request) -> web.StreamResponse:
    """Begin an answer and drop the connection."""
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
    request.transport.close()
    return web.Response()


async def say_nothing(request: web.Request) -> web.StreamResponse:
    """Drop the connection once the request is there."""
    await request.read()
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    ("respond", "base_url", "received"),
    [
        (break_off, None, True),
        (say_nothing, None, True),
        (say_nothing, "http://127.0.0.1:1/v1", False),
        (say_nothing, "http://no-such-host.invalid/v1", False),
    ],
    ids=["amid the answer", "before it", "nobody listens", "no such host"],
)
def test_a_broken_connection_tells_whether_the_request_was_sent(
    respond: Respond, base_url: str | None, *, received: bool
) -> None:
    """An endpoint that had the request may bill it; one that nobody reached does not."""
    with pytest.raises(CallError) as failure:
        call(respond, base_url=base_url)

    assert (failure.value.error_class, failure.value.received) == ("connection", received)


@pytest.mark.parametrize(
    ("respond", "error_class", "retryable"),
    [
        (refuse(400), "bad_request", False),
        (refuse(400, code="context_length_exceeded"), "context_window", False),
        (refuse(400, code="content_filter"), "content_policy", False),
        (refuse(400, code="content_policy_violation"), "content_policy", False),
        (refuse(400, "This model's maximum context length is 4096 tokens."), "context_window", False),
        (refuse(413, "Input is too long: prompt is too long: 9 > 8"), "context_window", False),
        (refuse(422, "`inputs` must have less than 1024 tokens. Given: 2000"), "context_window", False),
        (refuse(400, kind="exceed_context_size_error"), "context_window", False),
        (refuse(401), "auth", False),
        (refuse(402), "auth", False),
        (refuse(403), "auth", False),
        (refuse(404), "server", True),
        (refuse(410), "server", True),
        (refuse(408), "timeout", True),
        (refuse(413), "bad_request", False),
        (refuse(422), "bad_request", False),
        (refuse(429), "rate_limit", True),
        (refuse(429, code="insufficient_quota"), "rate_limit", True),
        (refuse(500), "server", True),
        (refuse(502), "server", True),
        (refuse(503), "server", True),
        (refuse(504), "timeout", True),
        (refuse(529), "server", True),
        (answer(500, raw=b"<html>oops</html>"), "server", True),
        (answer(400, raw=b""), "bad_request", False),
        (answer(400, ["error"]), "bad_request", False),
        (answer(200, raw=b"<html>login</html>"), "bad_response", True),
        (answer(200, raw=b'{"choices": [{"mess'), "bad_response", True),
        (answer(200, raw=b"\xff\xfe"), "bad_response", True),
        (answer(200, raw=b"[" * 100_000), "bad_response", True),
        (answer(200, raw=b""), "bad_response", True),
        (answer(200, {"choices": []}), "bad_response", True),
        (answer(200, {"choices": [], "usage": USAGE}), "bad_response", False),
        (answer(200, {"choices": None}), "bad_response", True),
        (answer(200, ANSWER | {"padding": "x" * 3_200_000}), "bad_response", False),
        (drop, "connection", True),
        (trickle, "timeout", True),
    ],
)
def test_every_failure_has_one_class(respond: Respond, error_class: str, *, retryable: bool) -> None:
    """Whatever an endpoint does, ``call`` raises a ``CallError`` that says whether to try again."""
    with pytest.raises(CallError) as failure:
        call(respond, timeout_s=0.5)

    assert (failure.value.error_class, failure.value.retryable) == (error_class, retryable)
    assert failure.value.sentence


def test_an_endpoint_that_is_not_there_is_a_connection_error() -> None:
    """The sentence says so without a traceback."""
    with pytest.raises(CallError) as failure:
        call(drop, base_url="http://127.0.0.1:1/v1")

    assert failure.value.error_class == "connection"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("1.5", 1.5),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_where_it_is_a_time(header: str, seconds: float | None) -> None:
    """A date that is past is no wait; what is no time at all is left to the policy's own delay."""
    with pytest.raises(CallError) as failure:
        call(refuse(429, retry_after=header))

    assert failure.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0.5s"}, 360.5),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "6m0s"}, None),
        (
            {
                "retry-after": "2",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20ms",
            },
            2.0,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h"}, 600.0),
        ({}, None),
    ],
)
def test_a_refusal_says_how_long(headers: Mapping[str, str], seconds: float | None) -> None:
    """By Retry-After, a date by the endpoint's own clock; else by its limits, and for ten minutes at most."""
    assert read_wait(headers) == seconds


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("1s", 1.0), ("20ms", 0.02), ("1m30s", 90.0), ("2", 2.0), ("soon", 0.0), ("1s later", 0.0), ("", 0.0)],
)
def test_what_is_left_of_limits_is_read(reset: str, seconds: float) -> None:
    """Nothing is left of requests until their reset; tokens, of which there are some, do not matter."""
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-remaining-tokens": "5",
        "x-ratelimit-reset-tokens": "9m",
    }

    assert read_pressure(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "usage",
    [None, {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}],
)
def test_an_answer_is_given_as_it_came(usage: Mapping[str, int] | None) -> None:
    """Its bytes are the endpoint's own, its usage is read where there is one."""
    raw = json.dumps(ANSWER | ({} if usage is None else {"usage": usage})).encode() + b" "

    found = call(answer(200, raw=raw))

    assert found.value == raw
    if usage is None:
        assert found.usage is None
    else:
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 3)


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": "7"}, "none", [1]]
)
def test_an_answer_with_odd_usage_is_still_an_answer(usage: object) -> None:
    """It was paid for: that its tokens cannot be read only means that its cost is not known."""
    found = call(answer(200, ANSWER | {"usage": usage}))

    assert found.usage is None


def test_the_request_is_the_body_with_the_endpoints_own_model() -> None:
    """Streaming is off, unknown fields and number formats stay, the key is the one referred to."""
    seen: dict[str, Any] = {}

    async def respond(request: web.Request) -> web.StreamResponse:
        seen["body"], seen["headers"] = await request.json(), request.headers
        return web.json_response(ANSWER)

    call(respond, body=BODY | {"model": "auto", "stream": True, "stream_options": {}, "x-new": [1.5, 10**30]})

    assert seen["body"] == BODY | {"model": "large-2026", "stream": False, "x-new": [1.5, 10**30]}
    assert seen["headers"]["x-uniroute-prompt-id"] == "p-1"
    assert seen["headers"]["content-type"] == "application/json"


@pytest.mark.parametrize(
    "respond",
    [
        refuse(400, f"bad key {KEY}"),
        refuse(401, f"Incorrect API key provided: {KEY}"),
        refuse(403, KEY),
        refuse(429, f"{KEY} is over its limit"),
        refuse(500, f"upstream said: Bearer {KEY}"),
        refuse(500, "x" * 290 + KEY),
        answer(200, raw=KEY.encode()),
        drop,
    ],
)
def test_no_sentence_quotes_the_key(respond: Respond, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the endpoint echoes, what callers and logs see does not hold the key."""
    monkeypatch.setenv("TEST_LLM_KEY", KEY)

    with pytest.raises(CallError) as failure:
        call(respond, key_ref="env:TEST_LLM_KEY")

    assert KEY[:6] not in failure.value.sentence


@pytest.mark.parametrize("key", [f"{KEY}\n", f"\u00fc{KEY}", ""])
def test_a_key_that_no_header_can_hold_is_an_auth_error(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break from a file, say: the sentence names the variable, not the key."""
    monkeypatch.setenv("TEST_LLM_KEY", key)

    with pytest.raises(CallError) as failure:
        call(answer(200, ANSWER), key_ref="env:TEST_LLM_KEY")

    assert failure.value.error_class == "auth"
    assert "TEST_LLM_KEY" in failure.value.sentence
    assert KEY not in failure.value.sentence


def test_a_missing_key_is_an_auth_error() -> None:
    """The sentence names the variable to set."""
    with pytest.raises(CallError, match="NO_SUCH_KEY is not set") as failure:
        call(answer(200, ANSWER), key_ref="env:NO_SUCH_KEY")

    assert failure.value.error_class == "auth"


def test_the_key_goes_to_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bearer token, resolved from the variable that it is referred to by."""
    seen: list[str] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["authorization"])
        return web.json_response(ANSWER)

    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    call(respond, key_ref="env:TEST_LLM_KEY")

    assert seen == [f"Bearer {KEY}"]
