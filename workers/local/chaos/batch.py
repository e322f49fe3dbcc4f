"""Runs a batch while every part of the installation is killed, and counts how its lines ended."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from workers.batches.folders import Store
from workers.batches.requests import Options as BatchOptions
from workers.batches.submission import keep_file, pause, submit
from workers.local.chaos.accounts import count_repeated
from workers.local.chaos.options import Options
from workers.local.chaos.watch import Watch
from workers.local.demo.batch import write_requests
from workers.local.demo.options import Options as StageOptions
from workers.local.demo.stage import Say, Stage
from workers.local.simulated.builtin import BuiltinSource
from workers.settings import ROLES
from workers.storage.batches import Batch, Batches
from workers.storage.engine import transaction

Report = dict[str, Any]
#: Told where the batch stands.
Show = Callable[[Batch], None]

#: Of what the best single LLM would cost.
_BUDGET_SHARE = 0.8
#: Each role is killed so often.
_KILLS = 2
_PAUSED_S = 2.0
_LOOK_EVERY_S = 0.1
#: No line ended for so long: the batch is stuck.
_STUCK_AFTER_S = 300.0


def run_batch_chaos(options: Options, *, say: Say, show: Show) -> Report:
    """Run once in a temporary folder; everything started ends with the call, however it ends.

    Router, executor, learner and batcher are each killed twice by SIGKILL, the broker is killed and started
    again once, and the batch paused and resumed once, in a seeded random order, evenly over its lines.
    """
    source = BuiltinSource(seed=options.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uniroute-chaos-")))
        stage = _set_stage(options, source, folder=folder, stack=stack, say=say)
        prompts = source.prompts("traffic", options.prompts)
        truth = source.truth([prompt.prompt_id for prompt in prompts])
        best = int(truth.scores.mean(axis=0).argmax())
        budget = _BUDGET_SHARE * float(truth.costs_usd[:, best].sum())
        store = Store(stage.settings.batches_folder)
        write_requests(folder / "requests.jsonl", prompts)
        with (folder / "requests.jsonl").open("rb") as file:
            kept = keep_file(file, filename="chaos", purpose="batch", engine=stage.engine, store=store)
        begun = time.monotonic()
        batch_id = submit(kept, BatchOptions(budget_usd=budget), engine=stage.engine).batch.id
        say(f"Submitted {len(prompts)} lines under {budget:.4f} USD")
        with Watch(stage, ROLES, say=say) as watch:
            events = _play(stage, watch, batch_id, options, say=say, show=show)
            batch = _await(stage, batch_id, lambda found: found.ended, show=show)
        seconds = time.monotonic() - begun
        stage.stop_roles()
        seen = _count_lines(store, batch_id)
        return {
            "simulated": True,
            "status": batch.status,
            "lines": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
            "lost": batch.total - len(seen),
            "duplicated": sum(count - 1 for count in seen.values()),
            "second_replies_dropped": batch.duplicated,
            "repeated_calls": batch.repeated_calls,
            "repeated_calls_seen_by_llms": count_repeated(stage.read_calls()),
            "budget_usd": budget,
            "spent_usd": float(batch.spent_usd),
            "unsettled_usd": float(batch.unsettled_usd),
            "crashes_not_caused": watch.crashes,
            "acts": len(ROLES) * _KILLS + 2,
            "seconds": round(seconds, 3),
            "events": events,
        }


def _set_stage(options: Options, source: BuiltinSource, *, folder: Path, stack: ExitStack, say: Say) -> Stage:
    """Start everything that the run breaks; all of it serves."""
    stage = Stage(
        StageOptions(prompts=options.prompts, seed=options.seed, labels=options.labels, train=options.train),
        source,
        folder=folder,
        stack=stack,
        say=say,
        environment={
            "UNIROUTE_SESSION_TIMEOUT_MS": str(int(1000 * options.session_s)),
            "UNIROUTE_BATCH_WINDOW": "400",
        },
    )
    stage.start()
    stage.open_embedder()
    stage.launch_roles(ROLES)
    stage.learn()
    stage.join_late_llm()
    stage.await_roles()
    return stage


def _play(
    stage: Stage, watch: Watch, batch_id: str, options: Options, *, say: Say, show: Show
) -> Sequence[dict[str, Any]]:
    """Break one thing after another, evenly over the lines; give what was broken, and at which line."""
    acts: list[tuple[str, Callable[[], None]]] = [
        (f"{role} is killed by SIGKILL", partial(_kill, stage, watch, role))
        for role in ROLES
        for _ in range(_KILLS)
    ]
    acts.append(("the broker is killed by SIGKILL", partial(_restart_broker, stage)))
    acts.append(("the batch is paused and resumed", partial(_rest, stage.engine, batch_id)))
    order = np.random.default_rng(options.seed).permutation(len(acts))
    events = []
    for number, at in enumerate(order.tolist()):
        what, act = acts[at]
        wanted = options.prompts * (number + 1) // (len(acts) + 2)
        batch = _await(
            stage,
            batch_id,
            lambda found, wanted=wanted: found.ended or found.completed + found.failed >= wanted,  # type: ignore[misc]
            show=show,
        )
        if batch.ended:
            break
        say(f"{what}, with {batch.completed + batch.failed} lines ended")
        act()
        events.append({"what": what, "ended_lines": batch.completed + batch.failed})
    return events


def _kill(stage: Stage, watch: Watch, role: str) -> None:
    with watch.hold(role):
        stage.kill_role(role)
        stage.start_role(role)


def _restart_broker(stage: Stage) -> None:
    stage.local.kafka.kill()
    stage.local.kafka.start()


def _rest(engine: Engine, batch_id: str) -> None:
    pause(engine, batch_id, paused=True)
    time.sleep(_PAUSED_S)
    pause(engine, batch_id, paused=False)


def _await(stage: Stage, batch_id: str, until: Callable[[Batch], bool], *, show: Show) -> Batch:
    """Wait for the batch to come so far; as it stands where no line has ended for long."""
    seen, seen_at = -1, time.monotonic()
    while True:
        with transaction(stage.engine) as session:
            batch = Batches(session).get(batch_id)
        show(batch)
        done = batch.completed + batch.failed
        if done != seen:
            seen, seen_at = done, time.monotonic()
        if until(batch) or time.monotonic() - seen_at > _STUCK_AFTER_S:
            return batch
        time.sleep(_LOOK_EVERY_S)


def _count_lines(store: Store, batch_id: str) -> Counter[int]:
    """Count the entries of each line in the output and the error file together."""
    folder, seen = store.batch(batch_id), Counter[int]()
    for path in (folder.output, folder.errors):
        if path.exists():
            with path.open("rb") as file:
                seen.update(int(json.loads(raw)["line"]) for raw in file)
    return seen
