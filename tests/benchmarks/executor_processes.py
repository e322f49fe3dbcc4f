"""The processes of the executor's benchmark: a server of one second per call, a bare client, an executor.

Arguments: which of them, and JSON options.
"""

import asyncio
import json
import logging
import random
import resource
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx2
import openai
from aiohttp import web

from routing.llms import Price
from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.gates import Limits
from workers.calls.retries import RetryPolicy
from workers.executor import CallableLLM, Executor, Gates
from workers.settings import Settings
from workers.topics import Topics
from workers.transactions import CallWork, LoopConfig, LoopCounters, TransactionLoop

_SECONDS = {"bench": 1.0, "quick": 0.2, "hang": 60.0}
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x" * 1_000}}
        ],
        "usage": {"prompt_tokens": 125, "completion_tokens": 250, "total_tokens": 375},
    }
).encode()


async def serve() -> None:
    """Answer each call after the time of its model."""
    first: list[float] = []

    async def complete(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        first.append(time.time())
        await asyncio.sleep(_SECONDS[body["model"]])
        return web.Response(body=_ANSWER, content_type="application/json")

    async def tell(_request: web.Request) -> web.Response:
        return web.Response(text=str(first[0] if first else 0.0))

    async def count(_request: web.Request) -> web.Response:
        return web.Response(text=str(len(first)))

    async def reset(_request: web.Request) -> web.Response:
        first.clear()
        return web.Response(text="0")

    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/chat/completions", complete),
            web.get("/first", tell),
            web.get("/reset", reset),
            web.get("/count", count),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4_096).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


async def call_bare(url: str, calls: int, *, aiohttp: bool = False) -> None:
    """Make the calls with the openai client alone, over its default transport or over aiohttp."""
    transport = openai.DefaultAioHttpClient if aiohttp else openai.DefaultAsyncHttpxClient
    client = openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        timeout=60.0,
        http_client=transport(limits=_limits(calls)),
    )

    async def call() -> None:
        messages: Any = [{"role": "user", "content": "x" * 500}]
        await client.chat.completions.create(model="bench", messages=messages)

    await call()  # whatever is loaded at the first one
    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call() for _ in range(calls)))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


def _limits(calls: int) -> Any:
    return httpx2.Limits(max_connections=calls, max_keepalive_connections=calls)


def execute(
    *,
    url: str,
    bootstrap: str,
    prefix: str,
    calls: int,
    slot: str = "0",
    names: Sequence[str] = tuple(_SECONDS),
    requests_per_minute: float | None = None,
) -> None:
    """Be an executor, with all that one does."""
    settings = Settings(
        kafka_bootstrap=bootstrap,
        topic_prefix=prefix,
        reply_prefix=f"{prefix}replies.",
        max_in_flight=calls,
        worker_slot=slot,
    )
    topics = Topics(prefix)
    gates = Gates(topics=topics, most=calls)
    llms = {
        name: CallableLLM(
            endpoint=Endpoint(llm=name, base_url=f"{url}/v1", provider_model=name),
            price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0),
            limits=Limits(requests_per_minute=requests_per_minute),
        )
        for name in names
    }
    executor = Executor(
        caller=EndpointCaller(timeout_s=90.0, max_connections=len(llms) * calls),
        llms=lambda: llms,
        retries=RetryPolicy(),
        settings=settings,
        rng=random.Random(0),
        gates=gates,
    )

    class Announcer(LoopCounters):
        def owns(self, shares: Any) -> None:
            gates.own(shares)
            if shares:
                print("ready", flush=True)  # again with each change

    config = LoopConfig.from_settings(
        settings,
        role="executor",
        pattern=topics.dispatch_pattern,
        max_in_flight_per_topic=calls,
        leader_of=topics.leading_lane,
    )
    work = CallWork(executor.handle, max_in_flight=len(llms) * calls, paused=lambda: gates.paused)
    TransactionLoop(config, work, observer=Announcer()).run(threading.Event())


def main() -> None:
    """Be what the arguments say."""
    logging.basicConfig(level=logging.CRITICAL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16_384)), hard))
    mode, options = sys.argv[1], json.loads(sys.argv[2])
    if mode == "server":
        asyncio.run(serve())
    elif mode == "bare":
        asyncio.run(call_bare(**options))
    else:
        execute(**options)


if __name__ == "__main__":
    main()
