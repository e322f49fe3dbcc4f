"""Live prompts beside a batch that takes all it can get: their latency with it and without it, in one run."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.bench_batch import hand_in, set_stage

from workers.batches.submission import pause
from workers.client import Client
from workers.local.demo.stage import Stage
from workers.local.simulated.builtin import BuiltinSource
from workers.storage.batches import Batches
from workers.storage.engine import transaction

#: Live prompts in a second, one after the other at equal distances, whatever comes back.
_PER_SECOND = 5.0
#: Seconds after a change that belong to neither side.
_SETTLE_S = 5.0
_POLL_MS = 5
#: A live prompt without a reply for so long fails the run.
_PATIENCE_S = 60.0


@dataclass(slots=True)
class _Side:
    """What was seen while the batch ran, or while it was paused."""

    seconds: list[float] = field(default_factory=list)
    batch_lines: int = 0
    measured_s: float = 0.0

    def describe(self) -> dict[str, float]:
        return {
            "live_prompts": len(self.seconds),
            **{f"p{at}_ms": round(1000 * float(np.percentile(self.seconds, at)), 1) for at in (50, 90, 99)},
            "batch_lines_per_s": round(self.batch_lines / self.measured_s, 1),
        }


def run(*, rounds: int = 5, window_s: float = 20.0, lines: int = 100_000) -> dict[str, Any]:
    """Send live prompts all the while; run the batch in every other window and pause it in those between.

    The simulated LLMs take as long as they say, and every process shares this machine's cores: with the batch
    they are all busy. A prompt's latency is from ``submit`` to its reply in the caller's hands.
    """
    source = BuiltinSource(seed=0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uniroute-bench-")))
        stage = set_stage(source, folder, stack, latency_scale=1.0)
        client = stack.enter_context(Client(app="bench", settings=stage.settings))
        batch_id = hand_in(stage, source, folder, lines)
        _await_running(stage, batch_id)
        live = _Live(client, source)
        live.flow(_SETTLE_S, None)
        sides = {True: _Side(), False: _Side()}
        for turn in range(2 * rounds):
            running = turn % 2 == 0
            pause(stage.engine, batch_id, paused=not running)
            live.flow(_SETTLE_S, None)
            _measure(stage, batch_id, live, sides[running], window_s)
        live.drain()
        found = {name: sides[running].describe() for name, running in (("with", True), ("without", False))}
        return {
            "live_prompts_per_s": _PER_SECOND,
            **found,
            "p99_ratio": round(found["with"]["p99_ms"] / found["without"]["p99_ms"], 3),
            "p50_ratio": round(found["with"]["p50_ms"] / found["without"]["p50_ms"], 3),
        }


class _Live:
    """Prompts of callers who wait: sent at their times, never later because others are slow."""

    def __init__(self, client: Client, source: BuiltinSource) -> None:
        self._client = client
        self._source = source
        self._numbers: Iterator[int] = count()
        self._open: dict[str, tuple[float, _Side | None]] = {}
        self._next_at = time.monotonic()

    def flow(self, seconds: float, side: _Side | None) -> None:
        """Send for so long; the prompts that are sent now count for ``side``."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            while self._next_at <= now:
                self._send(side)
                self._next_at += 1.0 / _PER_SECOND
            self._take()

    def drain(self) -> None:
        """Wait for the last replies."""
        end = time.monotonic() + _PATIENCE_S
        while self._open:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self._open)} live prompts have no reply after {_PATIENCE_S} s")
            self._take()

    def _send(self, side: _Side | None) -> None:
        prompt = self._source.prompt("label", 10_000 + next(self._numbers))
        # From when it should have gone: a sender that was held up hides nothing.
        self._open[prompt.prompt_id] = (self._next_at, side)
        self._client.submit(prompt.text, prompt_id=prompt.prompt_id)

    def _take(self) -> None:
        for reply in self._client.poll(timeout_ms=_POLL_MS):
            sent_at, side = self._open.pop(reply.prompt_id)
            if side is not None:
                side.seconds.append(time.monotonic() - sent_at)


def _measure(stage: Stage, batch_id: str, live: _Live, side: _Side, seconds: float) -> None:
    before, begun = _ended_lines(stage, batch_id), time.monotonic()
    live.flow(seconds, side)
    side.batch_lines += _ended_lines(stage, batch_id) - before
    side.measured_s += time.monotonic() - begun


def _ended_lines(stage: Stage, batch_id: str) -> int:
    with transaction(stage.engine) as session:
        batch = Batches(session).get(batch_id)
    if batch.ended:
        raise ValueError(f"the batch has ended as {batch.status}: give it more lines")
    return batch.completed + batch.failed


def _await_running(stage: Stage, batch_id: str) -> None:
    while _ended_lines(stage, batch_id) == 0:
        time.sleep(_SETTLE_S / 10)
