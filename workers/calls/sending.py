"""Tells when a request leaves: later than it was asked for, since connections take time, and turns too."""

from collections.abc import Callable
from contextvars import ContextVar

import aiohttp
import httpx2

#: What to call right before the first byte of the request that is made in this context goes to its socket.
leaving: ContextVar[Callable[[], None]] = ContextVar("leaving", default=lambda: None)


def tell_of_sending(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Give the client, one of openai's over aiohttp, so made that each of its requests tells.

    To be called where an event loop runs.
    """
    trace = aiohttp.TraceConfig()

    async def tell(*_: object) -> None:  # aiohttp awaits it
        leaving.get()()

    # The headers are held back for the body, which on some Pythons a task of its own writes, a turn of the
    # loop after there is a connection: a process that dies in that turn has sent nothing. Between this and
    # the write there is none.
    trace.on_request_chunk_sent.append(tell)
    trace.freeze()
    # There is no other way to reach the sessions: the client makes them at its first request.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        if transport is not None:
            session: aiohttp.ClientSession = transport.get_client()  # type: ignore[attr-defined]
            session.trace_configs.append(trace)
            transport.client = session  # type: ignore[attr-defined]
    return client
