"""Whole batches of generated lines: lines/s, seconds of each phase, memory and CPU of each process."""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.families import Family, watching
from static_artifacts import write_static_artifact

from workers.batches.folders import Store
from workers.batches.requests import Options as BatchOptions
from workers.batches.submission import keep_file, submit
from workers.local.demo.batch import write_requests
from workers.local.demo.options import Options
from workers.local.demo.stage import Stage
from workers.local.simulated.builtin import BuiltinSource
from workers.storage.batches import Batch, Batches, JournalEntry
from workers.storage.engine import transaction

_TRAIN, _LABELS = 2_000, 400
#: Of the static embedder: as many as usual ones have.
_DIMENSION = 256
_LLM_SERVERS = 2
#: Of what the dearest LLM would cost, so that the budget binds.
_BUDGET_SHARE = 0.5
#: Lines whose cost is worked out to know that of all.
_SAMPLED = 2_000
_LOOK_EVERY_S = 0.5
#: Every line is looked for; of so many one is held against what its LLM says to it.
_CHECK_EVERY = 10


def run(lines: int) -> dict[str, Any]:
    """Run one batch on a private installation of one process per role, and check what came out.

    The embedder is static, the LLMs are simulated and answer at once: what is measured is the way of a line
    through planner, Kafka, executor and result files. ``processes`` gives each one's peak of memory and, as
    ``cpu_us_per_line``, what it computed between submit and end; ``phases`` the seconds of each stage.
    """
    source = BuiltinSource(seed=0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uniroute-bench-")))
        stage = set_stage(source, folder, stack, latency_scale=0.0)
        with watching() as processes:
            batch_id = hand_in(stage, source, folder, lines)
            batch, journal, quarters = _await(stage, batch_id, processes)
        phases = _phases(batch, journal)
        found = _check(Store(stage.settings.batches_folder), batch, source)
        return {
            "lines": lines,
            "status": batch.status,
            "completed": batch.completed,
            "failed": batch.failed,
            **found,
            "budget_usd": float(batch.budget_usd or 0.0),
            "spent_usd": float(batch.spent_usd),
            "unsettled_usd": float(batch.unsettled_usd),
            "plans": sum(entry.event == "planned" for entry in journal),
            "lines_per_s": round(lines / sum(phases.values()), 1),
            "phases": {name: round(seconds, 2) for name, seconds in phases.items()},
            "quarters": quarters,
            "processes": processes.describe(lines),
        }


def set_stage(source: BuiltinSource, folder: Path, stack: ExitStack, *, latency_scale: float) -> Stage:
    """Start an installation with a static embedder, one process per role, and simulated LLMs."""
    words = sorted({word for prompt in source.draw("train", _TRAIN) for word in prompt.text.split()})
    artifact = write_static_artifact(folder / "embedders", words=("[UNK]", *words), dimension=_DIMENSION)
    options = Options(
        train=_TRAIN, labels=_LABELS, embedder=artifact, llm_servers=_LLM_SERVERS, latency_scale=latency_scale
    )
    stage = Stage(options, source, folder=folder, stack=stack, say=print)
    stage.start()
    stage.open_embedder()
    stage.launch_roles(("router", "executor", "learner", "batcher"))
    stage.learn()
    stage.join_late_llm()
    stage.await_roles()
    return stage


def hand_in(stage: Stage, source: BuiltinSource, folder: Path, lines: int) -> str:
    """Submit so many lines under half of what the dearest LLM would cost, and give the batch's id."""
    sample = source.prompts("traffic", min(_SAMPLED, lines))
    each = source.truth([prompt.prompt_id for prompt in sample]).costs_usd.mean(axis=0)
    path = folder / "requests.jsonl"
    write_requests(path, source.draw("traffic", lines))
    store = Store(stage.settings.batches_folder)
    with path.open("rb") as file:
        kept = keep_file(file, filename="bench", purpose="batch", engine=stage.engine, store=store)
    options = BatchOptions(budget_usd=_BUDGET_SHARE * lines * float(each.max()))
    return submit(kept, options, engine=stage.engine).batch.id


def _await(
    stage: Stage, batch_id: str, processes: Family
) -> tuple[Batch, Sequence[JournalEntry], list[dict[str, float]]]:
    """Wait for the end; give lines/s and CPU of each quarter of the lines too."""
    marks = [(time.monotonic(), 0, processes.cpu_s)]
    while True:
        with transaction(stage.engine) as session:
            batches = Batches(session)
            batch = batches.get(batch_id)
            journal = batches.journal(batch_id, last=1_000) if batch.ended else []
        done = batch.completed + batch.failed
        if batch.ended or done >= batch.total * len(marks) / 4 > 0:
            marks.append((time.monotonic(), done, processes.cpu_s))
        if batch.ended:
            return batch, journal, [_compare(*pair) for pair in pairwise(marks) if pair[1][1] > pair[0][1]]
        time.sleep(_LOOK_EVERY_S)


def _compare(before: tuple[float, int, float], after: tuple[float, int, float]) -> dict[str, float]:
    lines = max(1, after[1] - before[1])
    return {
        "lines": after[1] - before[1],
        "lines_per_s": round(lines / (after[0] - before[0]), 1),
        "cpu_us_per_line": round(1e6 * (after[2] - before[2]) / lines),
    }


def _phases(batch: Batch, journal: Sequence[JournalEntry]) -> dict[str, float]:
    """Give the seconds of each stage: they add up to all of it."""
    first = {entry.event: entry.at for entry in reversed(journal)}
    ends = {
        "ingest": first["validated"],
        "embed": first.get("embedded", first["validated"]),
        "plan": batch.in_progress_at,
        "run": batch.finalizing_at,
        "finalize": batch.ended_at,
    }
    seconds, before = {}, batch.created_at
    for name, end in ends.items():
        if end is None:
            raise ValueError(f"the batch has no {name}: it is {batch.status}")
        seconds[name] = (end - before).total_seconds()
        before = end
    return seconds


def _check(store: Store, batch: Batch, source: BuiltinSource) -> dict[str, int]:
    """Count lines that are missing, came out twice, or hold another answer than their LLM's."""
    folder, seen = store.batch(batch.id), bytearray(batch.total + 1)
    twice = wrong = 0
    for path in (folder.output, folder.errors):
        with path.open("rb") as file:
            for raw in file:
                entry = json.loads(raw)
                number = entry["line"]
                twice += seen[number]
                seen[number] = 1
                if path == folder.output and number % _CHECK_EVERY == 0:
                    wrong += not _is_right(entry, source)
    return {"missing": batch.total - sum(seen), "duplicated": twice, "wrong_answers": wrong}


def _is_right(entry: dict[str, Any], source: BuiltinSource) -> bool:
    prompt = source.prompt("traffic", entry["line"] - 1)
    said = entry["response"]["body"]["choices"][0]["message"]["content"]
    told = source.answer(entry["uniroute"]["llm"], prompt.prompt_id, prompt.text).text
    return bool(entry["custom_id"] == prompt.prompt_id and said == told)
