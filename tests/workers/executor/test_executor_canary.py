"""A key goes to its endpoint and nowhere else, whatever that endpoint does with it."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from scripted_calls import NOW, PRICE, dispatch

from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.retries import RetryPolicy
from workers.executor import CallableLLM, Executor
from workers.messages import Record
from workers.settings import Settings

CANARY = "sk-canary-7f3a9c51d2"
Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


def echo(status: int, *, code: str = "x", html: bool = False) -> Respond:
    """Answer with the key that came, as some gateways do."""

    async def respond(request: web.Request) -> web.StreamResponse:
        told = f"Incorrect API key provided: {request.headers['authorization']}"
        if html:
            return web.Response(status=status, text=f"<html>{told}</html>", content_type="text/html")
        body = {"error": {"message": told, "code": code, "type": told, "param": told}}
        return web.Response(status=status, text=json.dumps(body), headers={"x-echo": told})

    return respond


async def reset(request: web.Request) -> web.StreamResponse:
    """Drop the connection in the middle of a header."""
    assert request.transport is not None
    request.transport.write(f"HTTP/1.1 200 {CANARY}\r\n".encode())
    request.transport.abort()
    return web.Response()


async def leave(_request: web.Request) -> web.StreamResponse:
    """Send the caller elsewhere."""
    return web.Response(status=307, headers={"location": f"http://127.0.0.1:1/{CANARY}"})


async def garble(_request: web.Request) -> web.StreamResponse:
    """Answer what is no completion."""
    return web.Response(body=f'{{"choices": ["{CANARY}"'.encode(), content_type="application/json")


FAULTS = [
    *(echo(status) for status in (400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504)),
    *(echo(400, code=code) for code in ("context_length_exceeded", "content_filter")),
    echo(200),
    echo(200, html=True),
    echo(500, html=True),
    reset,
    leave,
    garble,
]


async def handle(respond: Respond, reference: str, on_failure: str) -> list[Record]:
    """Handle one dispatch against an endpoint."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    caller = EndpointCaller(timeout_s=5.0, max_connections=4)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    endpoint = Endpoint(llm="a", base_url=url, provider_model="a", api_key_ref=reference)
    executor = Executor(
        caller=caller,
        llms=lambda: {"a": CallableLLM(endpoint=endpoint, price=PRICE)},
        retries=RetryPolicy(attempts=2, first_s=0.001),
        settings=Settings(),
        rng=random.Random(0),
        now=lambda: NOW,
    )

    async def start(*_topics: str) -> int:
        return 0

    try:
        return list(await executor.handle(dispatch(on_failure=on_failure), start))
    finally:
        await caller.close()
        await runner.cleanup()


@pytest.mark.parametrize("kind", ["env", "file"])
def test_a_key_is_in_no_record_and_no_log(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With every fault, the key is in no reply, usage, dead letter or line of a log."""
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    monkeypatch.setenv("CANARY_KEY", CANARY)
    reference = "env:CANARY_KEY" if kind == "env" else f"file:{file}"

    async def run() -> list[list[Record]]:
        return await asyncio.gather(*(handle(fault, reference, "both") for fault in FAULTS))

    records = [record for made in asyncio.run(run()) for record in made]
    captured = capfd.readouterr()

    assert len(records) == 3 * len(FAULTS)
    assert CANARY not in captured.out + captured.err
    assert not any(CANARY.encode() in (record.value or b"") for record in records)
    assert not any(CANARY.encode() in value for record in records for _, value in record.headers)


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff\xfe", None])
def test_a_file_without_a_key_is_an_error_that_says_so(content: bytes | None, tmp_path: Path) -> None:
    """Missing, empty or no text: the reply names the file, and shows nothing of it."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    [reply, _] = asyncio.run(handle(echo(200), f"file:{file}", "reply"))
    error = json.loads(reply.value or b"")["error"]

    assert error["code"] == "auth"
    assert str(file) in error["message"]
    assert "lines" not in error["message"]
