"""Put an answer on the connection: whole, or as broken as a fault wants it."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

from aiohttp import web

from workers.local.simulated.faults import Fault, Reset, Trickle, TruncatedJson, WrongContentType

SIMULATED_HEADER = "x-uniroute-simulated"
_TRICKLE_PIECES = 50
_HTML = b"<!doctype html><title>Bad gateway</title><h1>The upstream server sent no answer.</h1>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A body with what it claims to be."""

    body: bytes
    content_type: str


async def send(
    request: web.Request, payload: Payload, fault: Fault | None
) -> tuple[web.StreamResponse, bool]:
    """Send the answer, with the fault where it is one of sending; tells whether all of it was written."""
    match fault:
        case TruncatedJson():
            half = payload.body[: len(payload.body) // 2]
            return _whole(half, payload.content_type), False
        case WrongContentType(content_type=content_type):
            return _whole(_HTML, content_type), False
        case Reset():
            return await _reset(request, payload), False
        case Trickle(trickle_s=seconds):
            return await _trickle(request, payload, seconds)
        case _:
            return _whole(payload.body, payload.content_type), True


def _whole(body: bytes, content_type: str) -> web.Response:
    headers = {SIMULATED_HEADER: "true", "content-type": content_type}
    return web.Response(body=body, headers=headers)


async def _open(request: web.Request, payload: Payload) -> web.StreamResponse:
    """Send the headers, with the length of the whole body."""
    headers = {SIMULATED_HEADER: "true", "content-type": payload.content_type}
    response = web.StreamResponse(headers=headers)
    response.content_length = len(payload.body)
    await response.prepare(request)
    return response


async def _reset(request: web.Request, payload: Payload) -> web.StreamResponse:
    """Write half of the body, then close so that the kernel sends RST."""
    response = await _open(request, payload)
    await response.write(payload.body[: len(payload.body) // 2])
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the caller may be gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return response


async def _trickle(request: web.Request, payload: Payload, seconds: float) -> tuple[web.StreamResponse, bool]:
    """Write the body in pieces spread over the time; gives up when the caller does."""
    response = await _open(request, payload)
    size = max(1, len(payload.body) // _TRICKLE_PIECES)
    pieces = [payload.body[i : i + size] for i in range(0, len(payload.body), size)]
    try:
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(seconds / len(pieces))
        await response.write_eof()
    except ConnectionError:
        return response, False
    return response, True
