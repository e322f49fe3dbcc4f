"""The demonstration of an offline batch: a file of prompts under one budget, against simulated LLMs."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from workers.batches.folders import Store
from workers.batches.requests import ENDPOINT, Options
from workers.batches.submission import keep_file, submit
from workers.local.demo.options import Options as DemoOptions
from workers.local.demo.report import Report
from workers.local.demo.run import open_source
from workers.local.demo.stage import Say, Stage
from workers.local.simulated.answers import AnswerSource, Prompt
from workers.storage.batches import Batch, Batches, JournalEntry
from workers.storage.engine import transaction

#: Lines where no folder of outcomes gives them.
BUILTIN_LINES = 5_000
_MOST_LINES = 1_000_000
_POLL_S = 0.25

#: Told where the batch stands.
ShowBatch = Callable[[Batch], None]


def run_batch_demo(
    options: DemoOptions, *, budget_shares: Sequence[float], say: Say, show: ShowBatch
) -> list[Report]:
    """Submit the traffic of a source as one batch for each budget, one after the other; give their figures.

    A budget is a share of what the best single LLM would cost for the same lines. Everything that is started
    ends with the call.
    """
    source = open_source(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uniroute-demo-")))
        stage = Stage(options, source, folder=folder, stack=stack, say=say)
        stage.start()
        stage.open_embedder()
        stage.launch_roles(("executor", "learner", "batcher"))
        stage.learn()
        stage.join_late_llm()
        stage.await_roles()
        prompts = source.prompts("traffic", _MOST_LINES if options.outcomes else BUILTIN_LINES)
        return [_run_batch(stage, source, prompts, share, say=say, show=show) for share in budget_shares]


def write_requests(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write OpenAI's batch file, a line for each prompt; ``model`` is left to the router."""
    with path.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            body = {
                "model": "auto",
                "messages": [{"role": "user", "content": prompt.text}],
                "metadata": {"prompt_id": prompt.prompt_id},
            }
            line = {"custom_id": prompt.prompt_id, "method": "POST", "url": ENDPOINT, "body": body}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _run_batch(
    stage: Stage,
    source: AnswerSource,
    prompts: Sequence[Prompt],
    share: float,
    *,
    say: Say,
    show: ShowBatch,
) -> Report:
    truth = source.truth([prompt.prompt_id for prompt in prompts])
    best = int(truth.scores.mean(axis=0).argmax())
    budget = share * float(truth.costs_usd[:, best].sum())
    say(f"Submitting {len(prompts)} lines under {budget:.4f} USD, {share:.0%} of the best single LLM's cost")
    store = Store(stage.settings.batches_folder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.jsonl"
        write_requests(path, prompts)
        with path.open("rb") as file:
            kept = keep_file(file, filename=path.name, purpose="batch", engine=stage.engine, store=store)
    begun = time.monotonic()
    batch_id = submit(kept, Options(budget_usd=budget), engine=stage.engine).batch.id
    batch, journal = _await(stage.engine, batch_id, show)
    seconds = time.monotonic() - begun
    return {
        "best_single": source.llms[best].name,
        "best_single_quality": float(truth.scores[:, best].mean()),
        "best_single_usd": float(truth.costs_usd[:, best].sum()),
        **_count_entries(source, store, batch),
        "status": batch.status,
        "lines": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "repeated_calls": batch.repeated_calls,
        "budget_usd": budget,
        "budget_share": share,
        "spent_usd": float(batch.spent_usd),
        "unsettled_usd": float(batch.unsettled_usd),
        "predicted_usd": _first_plan(journal).get("total_usd"),
        "predicted_quality": _first_plan(journal).get("quality"),
        "plans": sum(entry.event == "planned" for entry in journal),
        "seconds": round(seconds, 2),
        "lines_per_second": round(batch.total / seconds, 2),
        "simulated": True,
        "llms": {name: dict(figures) for name, figures in batch.llms.items()},
    }


def _await(engine: Engine, batch_id: str, show: ShowBatch) -> tuple[Batch, Sequence[JournalEntry]]:
    while True:
        with transaction(engine) as session:
            batches = Batches(session)
            batch = batches.get(batch_id)
            journal = batches.journal(batch_id, last=10_000)
        show(batch)
        if batch.ended:
            return batch, journal
        time.sleep(_POLL_S)


def _count_entries(source: AnswerSource, store: Store, batch: Batch) -> dict[str, Any]:
    """Grade the output; a line in it twice, or in the error file too, is duplicated."""
    folder, seen, score = store.batch(batch.id), Counter[int](), 0.0
    for path in (folder.output, folder.errors):
        with path.open("rb") as file:
            for raw in file:
                entry = json.loads(raw)
                seen[entry["line"]] += 1
                if path == folder.output:
                    text = entry["response"]["body"]["choices"][0]["message"]["content"]
                    score += source.grade(entry["custom_id"], text)
    return {
        "quality": score / max(1, batch.total),
        "duplicated": sum(count - 1 for count in seen.values()),
        "missing": batch.total - len(seen),
    }


def _first_plan(journal: Sequence[JournalEntry]) -> dict[str, Any]:
    return next((dict(entry.facts) for entry in journal if entry.event == "planned"), {})
