"""The executor beside a bare async openai client that makes the same calls."""

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from exactly_once import CommittedReader, create_topics
from kafka import KafkaProducer

_CHILD = str(Path(__file__).with_name("executor_processes.py"))
_WAIT_S = 120.0
_PARTITIONS = 4
#: Between two prompts of the LLM that is measured.
_PAUSE_S = 0.005


def run(bootstrap: str, *, calls: int = 2_000, rounds: int = 3) -> dict[str, Any]:
    """Measure alternately, so that whatever else the machine does falls on both; figures are medians.

    Each round makes ``calls`` calls of one second, all at once, to the same server in a process of its own.
    ``bare`` is ``AsyncOpenAI.chat.completions.create`` and nothing else; ``bare_aiohttp`` the same over the
    transport that the executor uses, which is the harder match. ``executor`` consumes dispatches
    from Kafka, keeps its promises, and commits replies: seconds are from the first call that arrives to the
    last reply that a read_committed reader sees, CPU that of its whole process from its first message on.
    """
    bare, aiohttp, ours = [], [], []
    with _server() as url:
        for _ in range(rounds):
            bare.append(_run_bare(url, calls))
            aiohttp.append(_run_bare(url, calls, aiohttp=True))
            ours.append(_run_executor(bootstrap, url, calls))
    return {
        "calls": calls,
        "seconds_per_call": 1.0,
        "bare": _median(bare),
        "bare_aiohttp": _median(aiohttp),
        "executor": _median(ours),
        "cpu_ratio": _cpu_ratio(ours, bare),
        "cpu_ratio_to_aiohttp": _cpu_ratio(ours, aiohttp),
    }


def run_beside_hanging(bootstrap: str, *, prompts: int = 1_000, hanging: int = 1_000) -> dict[str, Any]:
    """Measure one LLM of 0.2 s per call, alone and beside another that hangs for 60 s in every call.

    Milliseconds from a prompt's dispatch to its committed reply, in the same process, one after the other.
    """
    with _server() as url:
        alone = _time_replies(bootstrap, url, prompts, hanging=0)
        beside = _time_replies(bootstrap, url, prompts, hanging=hanging)
    return {
        "prompts": prompts,
        "hanging_calls": hanging,
        "alone": alone,
        "beside": beside,
        "p99_ratio": round(beside["p99_ms"] / alone["p99_ms"], 3),
    }


def _time_replies(bootstrap: str, url: str, prompts: int, *, hanging: int) -> dict[str, float]:
    prefix = f"{uuid.uuid4().hex[:8]}."
    reply_to = f"{prefix}replies.bench"
    topics = [f"{prefix}{name}" for name in ("dispatch.quick", "dispatch.hang", "usage")]
    letters = [f"{prefix}dlq.dispatch.{llm}" for llm in ("quick", "hang")]
    create_topics(bootstrap, {topic: {} for topic in (*topics, *letters, reply_to)}, partitions=_PARTITIONS)
    with child("executor", url=url, bootstrap=bootstrap, prefix=prefix, calls=1_000) as (_, lines):
        next(lines)
        if hanging:
            _ask(url, "reset")
            dispatch(bootstrap, prefix, reply_to, {f"h-{number}": "hang" for number in range(hanging)})
            while _ask(url, "count") < hanging:
                time.sleep(0.1)
        asked: dict[bytes, float] = {}
        with (
            CommittedReader(bootstrap, [reply_to]) as reader,
            _dispatching(bootstrap, prefix, reply_to) as send,
        ):
            for number in range(prompts):
                asked[b"q-%d" % number] = time.time()
                send(f"q-{number}", "quick")
                time.sleep(_PAUSE_S)
            reader.read_until(lambda seen: len(seen.records) >= prompts, timeout_s=_WAIT_S)
            seconds = sorted(one.timestamp / 1_000 - asked[one.key] for one in reader.records)
    return {
        "p50_ms": round(1_000 * seconds[len(seconds) // 2]),
        "p99_ms": round(1_000 * seconds[len(seconds) * 99 // 100]),
    }


def _run_bare(url: str, calls: int, *, aiohttp: bool = False) -> dict[str, float]:
    with child("bare", url=url, calls=calls, aiohttp=aiohttp) as (process, lines):
        told = json.loads(next(lines))
        process.wait()
    return {
        "seconds": round(told["seconds"], 2),
        "cpu_ms_per_call": round(1_000 * told["cpu_seconds"] / calls, 3),
    }


def _run_executor(bootstrap: str, url: str, calls: int) -> dict[str, float]:
    prefix = f"{uuid.uuid4().hex[:8]}."
    reply_to = f"{prefix}replies.bench"
    topics = [f"{prefix}dispatch.bench", f"{prefix}dlq.dispatch.bench", f"{prefix}usage", reply_to]
    create_topics(bootstrap, {topic: {} for topic in topics}, partitions=_PARTITIONS)
    with child("executor", url=url, bootstrap=bootstrap, prefix=prefix, calls=calls) as (process, lines):
        next(lines)  # it owns its partitions
        reader = CommittedReader(bootstrap, [reply_to])
        _ask(url, "reset")
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        dispatch(bootstrap, prefix, reply_to, {f"p-{number}": "bench" for number in range(calls)})
        reader.read_until(lambda seen: len(seen.records) >= calls, timeout_s=_WAIT_S)
        ended = time.time()
        cpu_seconds = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
        reader.close()
    first = _ask(url, "first")
    errors = sum(b'"error"' in record.value for record in reader.records)
    if errors:
        raise RuntimeError(f"{errors} of {calls} replies are errors")
    return {
        "seconds": round(ended - first, 2),
        "cpu_ms_per_call": round(1_000 * cpu_seconds / calls, 3),
    }


def dispatch(bootstrap: str, prefix: str, reply_to: str, llms: Mapping[str, str]) -> None:
    """Dispatch prompts to LLMs, as a router does."""
    with _dispatching(bootstrap, prefix, reply_to) as send:
        for prompt_id, llm in llms.items():
            send(prompt_id, llm)


@contextmanager
def _dispatching(bootstrap: str, prefix: str, reply_to: str) -> Iterator[Callable[[str, str], None]]:
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x" * 500}]}).encode()

    def send(prompt_id: str, llm: str) -> None:
        headers = [("uniroute-llm", llm.encode()), ("uniroute-reply-to", reply_to.encode())]
        producer.send(f"{prefix}dispatch.{llm}", key=prompt_id.encode(), value=body, headers=headers)

    try:
        yield send
    finally:
        producer.flush()
        producer.close()


@contextmanager
def _server() -> Iterator[str]:
    with child("server") as (_, lines):
        yield next(lines).strip()


@contextmanager
def child(mode: str, **options: object) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """Run one of the processes of ``executor_processes``; gives it and the lines it writes."""
    process = subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, _CHILD, mode, json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        yield process, iter(process.stdout)
    finally:
        process.kill()
        process.wait()


def _ask(url: str, what: str) -> float:
    with urllib.request.urlopen(f"{url}/{what}") as response:  # noqa: S310  # our own server
        return float(response.read())


def _cpu_ratio(ours: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> float:
    ratios = [
        one["cpu_ms_per_call"] / other["cpu_ms_per_call"] for one, other in zip(ours, others, strict=True)
    ]
    return round(sorted(ratios)[len(ratios) // 2], 3)


def _median(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sorted(one[name] for one in rounds)[len(rounds) // 2] for name in rounds[0]}
