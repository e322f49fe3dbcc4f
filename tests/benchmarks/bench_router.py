"""The router beside its own encoder on the same prompts, and an idle system's time to dispatch."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from routing.embedders import Embedder
from workers.client import Client
from workers.local.demo.options import Options
from workers.local.demo.stage import Stage
from workers.local.demo.traffic import Auditor
from workers.local.simulated.answers import Prompt
from workers.local.simulated.builtin import BuiltinSource

_WINDOW = 64
_TIMEOUT_S = 300.0


def run(folder: Path, *, prompts: int = 2_000, rounds: int = 3, idle_prompts: int = 100) -> dict[str, Any]:
    """Measure alternately in one run: rates are medians of the rounds, and so is their ratio.

    ``encoder_per_s`` is the bare encoder in this process, fed as the router feeds it: windows of 64 prompts
    as they come. ``router_per_s`` is a router process from the first prompt sent to the last decision that a
    read_committed consumer sees, with the broker, Postgres and that consumer on the same cores. ``idle``: one
    prompt at a time, from ``send`` to its decision being visible, less what the encoder alone takes for it.
    """
    source = BuiltinSource(seed=0)
    with ExitStack() as stack:
        stage = Stage(Options(train=1_000, labels=200), source, folder=folder, stack=stack, say=print)
        stage.start()
        stage.open_embedder()
        stage.launch_roles(("router",))
        stage.learn()
        stage.await_roles()
        auditor = stack.enter_context(Auditor(stage.settings))
        client = stack.enter_context(Client(app="bench", settings=stage.settings))
        asked = source.prompts("traffic", rounds * prompts + idle_prompts + 1)
        _route(client, auditor, asked[-1:])  # the first prompt pays for what is loaded lazily
        encoder, router = [], []
        for turn in range(rounds):
            part = asked[turn * prompts : (turn + 1) * prompts]
            encoder.append(len(part) / _time_encoder(stage.embedder, part))
            router.append(len(part) / _route(client, auditor, part))
        idle = asked[rounds * prompts : rounds * prompts + idle_prompts]
        return {
            "prompts": prompts,
            "embedder": stage.embedder.fingerprint.as_dict(),
            "encoder_per_s": round(statistics.median(encoder), 1),
            "router_per_s": round(statistics.median(router), 1),
            "ratio": round(statistics.median(r / e for r, e in zip(router, encoder, strict=True)), 3),
            "idle": _measure_idle(client, auditor, stage.embedder, idle),
        }


def _time_encoder(embedder: Embedder, prompts: Sequence[Prompt]) -> float:
    begun = time.perf_counter()
    for start in range(0, len(prompts), _WINDOW):
        embedder.encode([prompt.text for prompt in prompts[start : start + _WINDOW]])
    return time.perf_counter() - begun


def _route(client: Client, auditor: Auditor, prompts: Sequence[Prompt]) -> float:
    """Seconds from the first prompt sent to the last decision seen."""
    begun = time.monotonic()
    for prompt in prompts:
        client.submit(prompt.text, prompt_id=prompt.prompt_id)
    client.flush()
    return auditor.wait_for([prompt.prompt_id for prompt in prompts], timeout_s=_TIMEOUT_S) - begun


def _measure_idle(
    client: Client, auditor: Auditor, embedder: Embedder, prompts: Sequence[Prompt]
) -> dict[str, float]:
    whole, encoding = [], []
    for prompt in prompts:
        begun = time.perf_counter()
        embedder.encode([prompt.text])
        encoding.append(time.perf_counter() - begun)
        whole.append(_route(client, auditor, [prompt]))
    less = np.array(whole) - np.array(encoding)
    return {
        f"{name}_p{percent}_ms": round(1000 * float(np.percentile(seconds, percent)), 2)
        for name, seconds in (
            ("dispatch", np.array(whole)),
            ("encoder", np.array(encoding)),
            ("less_encoder", less),
        )
        for percent in (50, 99)
    }
