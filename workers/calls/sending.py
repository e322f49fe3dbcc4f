"""Tells when a request is about to leave: later than it was asked for, since connections take time."""

from collections.abc import Callable
from contextvars import ContextVar

import aiohttp
import httpx2

#: What to call once the request that is made in this context has a connection, before its first byte.
connected: ContextVar[Callable[[], None]] = ContextVar("connected", default=lambda: None)


def tell_of_sending(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Give the client, one of openai's over aiohttp, so made that each of its requests tells.

    To be called where an event loop runs.
    """
    trace = aiohttp.TraceConfig()

    async def tell(*_: object) -> None:  # aiohttp awaits it
        connected.get()()

    trace.on_connection_reuseconn.append(tell)
    trace.on_connection_create_end.append(tell)
    trace.freeze()
    # There is no other way to reach the sessions: the client makes them at its first request.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        if transport is not None:
            session: aiohttp.ClientSession = transport.get_client()  # type: ignore[attr-defined]
            session.trace_configs.append(trace)
            transport.client = session  # type: ignore[attr-defined]
    return client
