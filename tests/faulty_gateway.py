"""An LLM's endpoint that does with the key it is shown whatever gateways have been seen to do.

Its faults are those of the simulated LLMs' own scenario, with the key in every body and in the headers, and a
few more that only a gateway has.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Thread

from aiohttp import web

from workers.local.simulated.faults import (
    EVERY_FAULT,
    Fault,
    Hang,
    HugeBody,
    Latency,
    MissingUsage,
    RateLimit,
    ServerError,
    read_scenario,
)
from workers.local.simulated.sending import Payload, send

#: With a stroke, which JSON may write in three ways.
CANARY = "sk-canary-7f3a/9c51d2"
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


async def pack(request: web.Request) -> web.StreamResponse:
    """Say that the answer is packed as the key."""
    return web.Response(body=complete(request), headers={"content-encoding": CANARY})


def escape(write: Callable[[str], str]) -> Respond:
    """Answer with the key in JSON as ``write`` writes it."""

    async def respond(_request: web.Request) -> web.StreamResponse:
        body = f'{{"choices": [{{"message": {{"content": "0.9 Bearer {write(CANARY)}"}}}}]}}'
        return web.Response(body=body.encode(), content_type="application/json")

    return respond


async def leave(_request: web.Request) -> web.StreamResponse:
    """Send the caller elsewhere."""
    return web.Response(status=307, headers={"location": f"http://127.0.0.1:1/{CANARY}"})


async def garble(_request: web.Request) -> web.StreamResponse:
    """Answer what is no completion."""
    return web.Response(body=f'{{"choices": ["{CANARY}"'.encode(), content_type="application/json")


def complete(request: web.Request, *, usage: bool = True, padding: int = 0) -> bytes:
    """Write a completion that quotes the key."""
    told = f"0.9 {request.headers['authorization']}"
    body = {
        "id": told,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": told + "x" * padding}}],
        **({"usage": {"prompt_tokens": 5, "completion_tokens": 2}} if usage else {}),
    }
    return json.dumps(body).encode()


def simulate(fault: Fault) -> Respond:
    """Do what the simulated LLMs do of this fault, with the key in whatever is sent."""

    async def respond(request: web.Request) -> web.StreamResponse:
        told = request.headers["authorization"]
        match fault:
            case RateLimit(retry_after_s=seconds):
                headers = {"x-echo": told} | ({} if seconds is None else {"retry-after": f"{seconds:g}"})
                return web.Response(status=429, text=f'{{"error": {{"message": "{told}"}}}}', headers=headers)
            case ServerError(status=status):
                return await echo(status)(request)
            case Hang(hang_s=seconds):
                await asyncio.sleep(seconds)
        padding = int(fault.megabytes * 1e6) if isinstance(fault, HugeBody) else 0
        body = complete(request, usage=not isinstance(fault, MissingUsage), padding=padding)
        response, _ = await send(request, Payload(body=body, content_type="application/json"), fault)
        return response

    return respond


#: An answer without a fault, which quotes the key all the same.
answer = simulate(Latency())
SIMULATED = [simulate(fault) for fault in read_scenario(EVERY_FAULT).fault]
FAULTS = [
    *SIMULATED,
    *(echo(status) for status in (400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504)),
    *(echo(400, code=code) for code in ("context_length_exceeded", "content_filter")),
    echo(200),
    echo(200, html=True),
    echo(500, html=True),
    reset,
    pack,
    leave,
    garble,
]


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[str]:
    """Answer every call so; gives the base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", respond)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@contextmanager
def serving_aside(respond: Respond) -> Iterator[str]:
    """Do the same in a thread of its own, for what runs in other processes."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = serving(respond)
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
