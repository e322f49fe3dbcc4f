"""Whatever an endpoint sends, a call ends as a valid answer or as an error of one of nine classes."""

import asyncio
import json
import random
import zlib
from collections import Counter

import pytest

from workers.calls.endpoints import Answer, Endpoint, EndpointCaller
from workers.calls.errors import CallError

CLASSES = {
    "rate_limit",
    "timeout",
    "server",
    "connection",
    "context_window",
    "content_policy",
    "auth",
    "bad_request",
    "bad_response",
}
KEY = "sk-canary-0123456789"
ANSWER = json.dumps(
    {
        "id": "c",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
).encode()
ERROR = json.dumps({"error": {"message": f"bad key {KEY}", "code": "context_length_exceeded"}}).encode()
#: What a field may hold instead.
ODD = [None, True, -1, 1e308, "", "x" * 50, [], {}, [[]], {"choices": []}, "\ud800", 10**30]
HEADERS = [
    "retry-after",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-remaining-tokens",
    "content-type",
    "content-encoding",
    "x-request-id",
    "set-cookie",
    "location",
    "transfer-encoding",
]
VALUES = [
    "0", "-1", "1e400", "nan", "soon", "6m0s", "Wed, 21 Oct 2099 07:28:00 GMT", "application/json", "gzip",
    "br", "deflate", "identity", "chunked", "x" * 3_000, "http://127.0.0.1:1/", "\u00e9\u00df", "",
]  # fmt: skip


def make_response(rng: random.Random) -> bytes:
    """Write a whole HTTP response, more or less."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(200))
    status = rng.choice([*[200] * 15, 201, 204, 301, 400, 401, 403, 404, 408, 413, 429, 500, 503])
    body = make_body(rng)
    headers = [(rng.choice(HEADERS), rng.choice(VALUES)) for _ in range(rng.randrange(4))]
    if rng.random() < 0.1:
        body = zlib.compress(body)
        headers.append(("content-encoding", "deflate"))
    length = len(body) if rng.random() < 0.9 else rng.randrange(2 * len(body) + 1)
    lines = [f"HTTP/1.1 {status} X", f"content-length: {length}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1", errors="replace") + b"\r\n\r\n" + body


def make_body(rng: random.Random) -> bytes:
    """Write an answer, an error or neither; cut, mixed up or altered."""
    body = rng.choice([*[ANSWER] * 8, ERROR, b"", b"null", b"[]", b"<html>", b"[" * 5_000])
    kind = rng.random()
    if kind < 0.3 and body in {ANSWER, ERROR}:
        tree = json.loads(body)
        tree[rng.choice([*tree, "choices", "usage", "error"])] = rng.choice(ODD)
        body = json.dumps(tree).encode()
    elif kind < 0.5:
        body = body[: rng.randrange(len(body) + 1)]
    elif kind < 0.65:
        place = rng.randrange(len(body) + 1)
        body = body[:place] + rng.randbytes(rng.randrange(8)) + body[place:]
    return body


async def serve(seed: int, count: int) -> Counter[str]:
    """Call so many times, forty at once; each answer must be valid, each error of a known class."""
    rng = random.Random(seed)

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(make_response(rng))
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(
        llm="a", base_url=f"http://127.0.0.1:{port}/v1", provider_model="a", api_key_ref="env:FUZZ_KEY"
    )
    caller = EndpointCaller(timeout_s=2.0, max_connections=40)
    outcomes: Counter[str] = Counter()

    async def call(number: int) -> None:
        try:
            answer = await caller.call(endpoint, {"messages": []}, prompt_id=f"p-{number}", timeout_s=2.0)
        except CallError as error:
            check_error(error)
            outcomes[error.error_class] += 1
        else:
            check(answer)
            outcomes["ok"] += 1

    try:
        for start in range(0, count, 40):
            await asyncio.gather(*(call(number) for number in range(start, min(count, start + 40))))
    finally:
        await caller.close()
        server.close()
    return outcomes


def check_error(error: CallError) -> None:
    """An error is of a known class, can be written down, and shows no key."""
    assert error.error_class in CLASSES
    assert KEY not in error.sentence
    assert error.sentence.encode()


def check(answer: Answer) -> None:
    """A reply is JSON with a choice, and fits; waits are finite."""
    assert json.loads(answer.value.decode())["choices"][0]["message"].keys() is not None
    assert len(answer.value) <= 3 * 1024 * 1024
    assert 0 <= answer.pressure_s <= 600
    assert answer.usage is None or answer.usage.total >= 0


def test_whatever_comes_is_classified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand responses, each classified. The key is never in a sentence."""
    monkeypatch.setenv("FUZZ_KEY", KEY)
    outcomes = asyncio.run(serve(seed=0, count=20_000))

    assert outcomes.total() == 20_000
    assert outcomes["ok"] > 100
    assert outcomes["bad_response"] > 100
