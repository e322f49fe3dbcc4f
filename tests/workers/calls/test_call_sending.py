"""When a call is said to be sent."""

import asyncio
import select
import socket

import pytest
from aiohttp import web

from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.errors import CallError

ANSWER = {"choices": [{"message": {"role": "assistant", "content": "ok"}}]}
BODY = {"messages": [{"role": "user", "content": "hi"}]}


def endpoint(port: int) -> Endpoint:
    """An endpoint on this machine."""
    return Endpoint(llm="a", base_url=f"http://127.0.0.1:{port}", provider_model="a")


def test_each_call_is_told_of_before_the_endpoint_sees_it() -> None:
    """On a new connection and on one that is used again alike."""
    events: list[str] = []

    async def respond(_: web.Request) -> web.Response:
        events.append("seen")
        return web.json_response(ANSWER)

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/chat/completions", respond)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        caller = EndpointCaller(timeout_s=10, max_connections=4)
        for number in ("1", "2"):
            await caller.call(
                endpoint(port),
                BODY,
                prompt_id=number,
                timeout_s=10,
                on_send=lambda number=number: events.append(f"sending {number}"),  # type: ignore[misc]
            )
        await caller.close()
        await runner.cleanup()

    asyncio.run(run())

    assert events == ["sending 1", "seen", "sending 2", "seen"]


def test_no_turn_of_the_loop_lies_between_the_telling_and_the_sending() -> None:
    """A process that dies in a turn after it told has sent what it told of."""
    sent: list[bool] = []

    async def run(listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def look() -> None:
            peer, _ = listening.accept()
            with peer:
                sent.append(bool(select.select([peer], [], [], 1.0)[0]))

        caller = EndpointCaller(timeout_s=10, max_connections=4)
        with pytest.raises(CallError):  # it is never answered
            await caller.call(
                endpoint(listening.getsockname()[1]),
                BODY,
                prompt_id="1",
                timeout_s=10,
                on_send=lambda: loop.call_soon(look),  # type: ignore[arg-type, return-value]
            )
        await caller.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(run(listening))

    assert sent == [True]


def test_what_finds_no_connection_is_not_sent() -> None:
    """Nobody listens: nothing left this machine, and nothing was paid."""
    events: list[str] = []

    async def run() -> None:
        caller = EndpointCaller(timeout_s=10, max_connections=4)
        with pytest.raises(CallError):
            await caller.call(
                endpoint(1),
                BODY,
                prompt_id="1",
                timeout_s=10,
                on_send=lambda: events.append("sending"),
            )
        await caller.close()

    asyncio.run(run())

    assert events == []
