"""Four executors share one LLM's limit per minute: its server counts the calls of every sliding minute."""

import json
import threading
import time
import urllib.request
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.bench_executor import child, dispatch
from exactly_once import create_topics

from workers.local.simulated.process import ServerProcess

_LLM = "sim-generalist"
_LIMIT = 600
_MINUTE_S = 60.0
_EXECUTORS = 4
_WAIT_S = 120.0


def run(bootstrap: str, *, seconds: float = 130.0) -> dict[str, Any]:
    """Keep four executor processes saturated for so long, each with one of the four partitions.

    The server is the simulated LLMs', in a process of its own, whose own log of calls is read. ``most`` is
    over all minutes that begin with a call, ``least`` over those that lie wholly in the saturated time.
    """
    prefix = f"{uuid.uuid4().hex[:8]}."
    reply_to = f"{prefix}replies.bench"
    topics = [f"{prefix}dispatch.{_LLM}", f"{prefix}dlq.dispatch.{_LLM}", f"{prefix}usage", reply_to]
    create_topics(bootstrap, {topic: {} for topic in topics}, partitions=_EXECUTORS)
    options = {"bootstrap": bootstrap, "prefix": prefix, "calls": 1_000, "requests_per_minute": _LIMIT}
    with ServerProcess.start() as server, ExitStack() as stack:
        for slot in range(_EXECUTORS):
            _, lines = stack.enter_context(
                child("executor", url=server.url, names=[_LLM], slot=str(slot), **options)
            )
            next(lines)
        prompts = int(1.5 * _LIMIT * seconds / _MINUTE_S)
        dispatch(bootstrap, prefix, reply_to, {f"p-{number}": _LLM for number in range(prompts)})
        deadline = time.monotonic() + seconds + _WAIT_S
        while (times := _call_times(server.url)) == [] or times[-1] - times[0] < seconds:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(times)} calls of {prompts}")
            threading.Event().wait(1.0)
    minutes = [(at, bisect_left(times, at + _MINUTE_S) - row) for row, at in enumerate(times)]
    whole = [calls for at, calls in minutes if at + _MINUTE_S <= times[-1]]
    return {
        "limit_per_minute": _LIMIT,
        "executors": _EXECUTORS,
        "seconds": round(times[-1] - times[0], 1),
        "calls": len(times),
        "most": max(calls for _, calls in minutes),
        "least": min(whole),
    }


def _call_times(url: str) -> Sequence[float]:
    with urllib.request.urlopen(f"{url}/calls") as response:  # noqa: S310  # our own server
        return sorted(call["at_s"] for call in json.loads(response.read())["calls"])
