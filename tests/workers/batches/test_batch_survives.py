import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from installations import Installation

from workers.batches.folders import Store
from workers.batches.requests import ENDPOINT, Options
from workers.batches.submission import cancel, keep_file, pause, results, retry_failed, submit
from workers.errors import UsageError
from workers.local.simulated.process import ServerProcess
from workers.storage.batches import Batch, Batches
from workers.storage.engine import transaction

pytestmark = pytest.mark.stack

LLMS = ("sim-novice", "sim-scribe")


@dataclass(slots=True)
class Bench:
    """An installation with two simulated LLMs, and batches in a folder of its own."""

    installation: Installation
    store: Store
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        return {"UNIROUTE_BATCHES_FOLDER": str(self.store.root), "UNIROUTE_BATCH_WINDOW": "400"}

    def serve(self, role: str) -> Any:
        """Start a role."""
        return self.installation.serve(role, environment=self.environment)

    def submit(self, lines: int, options: Options | None = None) -> str:
        """Hand in a batch of so many different lines."""
        path = self.folder / "requests.jsonl"
        with path.open("w") as file:
            for number in range(lines):
                text = f"what red apple, number {number}"
                body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                line = {"custom_id": f"id {number}", "method": "POST", "url": ENDPOINT, "body": body}
                file.write(json.dumps(line) + "\n")
        engine = self.installation.engine
        with path.open("rb") as source:
            kept = keep_file(source, filename=path.name, purpose="batch", engine=engine, store=self.store)
        return submit(kept, options or Options(), engine=engine).batch.id

    def wait(self, batch_id: str, until: Callable[[Batch], bool], *, timeout_s: float = 60) -> Batch:
        """Wait for a batch to come so far."""
        deadline = time.monotonic() + timeout_s
        while True:
            with transaction(self.installation.engine) as session:
                batch = Batches(session).get(batch_id)
            if until(batch):
                return batch
            if time.monotonic() > deadline:
                raise TimeoutError(f"{batch}")
            time.sleep(0.05)

    def entries(self, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Give what stands in the output and in the error file."""
        found = results(self.store, batch)
        output, errors = (
            [json.loads(raw) for raw in found[name].read_bytes().splitlines()]
            for name in ("output", "errors")
        )
        return output, errors


@pytest.fixture
def bench(kafka_bootstrap: str, migrated_url: str, tmp_path: Path) -> Iterator[Bench]:
    """A bench without any process but the simulated LLMs."""
    with (
        ServerProcess.start(["--latency-scale", "0.02"]) as llms,
        Installation.create(
            kafka_bootstrap=kafka_bootstrap, database_url=migrated_url, folder=tmp_path
        ) as installation,
    ):
        for name, score, price in zip(LLMS, (0.5, 0.9), (0.1, 2.0), strict=True):
            installation.register(name, score=score, usd_per_mtok=price, base_url=llms.base_url)
        yield Bench(installation, Store(tmp_path / "batches"), tmp_path)


def test_every_line_comes_out_once_whoever_is_killed(bench: Bench) -> None:
    """Batcher and executor are killed in the middle: no line is lost or doubled, and the budget is kept."""
    executor, batcher = bench.serve("executor"), bench.serve("batcher")
    batch_id = bench.submit(1_200, Options(budget_usd=0.05, order="input"))
    for kill, role, at in ((batcher, "batcher", 100), (executor, "executor", 300), (None, "batcher", 500)):
        bench.wait(batch_id, lambda batch, at=at: batch.completed >= at)
        (kill or batcher).kill()
        started = bench.serve(role)
        batcher = started if role == "batcher" else batcher

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert batch.status == "completed"
    assert (batch.completed, batch.failed, batch.duplicated) == (1_200, 0, 0)
    assert errors == []
    assert [entry["line"] for entry in output] == list(range(1, 1_201))
    assert Counter(entry["custom_id"] for entry in output) == Counter(f"id {n}" for n in range(1_200))
    assert batch.spent_usd <= 0.05
    assert abs(float(batch.spent_usd) - sum(entry["uniroute"]["cost_usd"] for entry in output)) < 1e-9


def test_what_the_budget_does_not_pay_for_is_told(bench: Bench) -> None:
    """A budget for a part of the lines is spent on them and no further; a retry takes up the rest."""
    bench.serve("executor")
    bench.serve("batcher")
    batch_id = bench.submit(300, Options(budget_usd=0.0004))

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert batch.status == "completed"
    assert len(output) + len(errors) == 300
    assert {entry["error"]["code"] for entry in errors} == {"budget_exhausted"}
    assert 0 < len(errors) < 300
    assert batch.spent_usd <= batch.budget_usd  # type: ignore[operator]
    again = retry_failed(
        bench.installation.engine,
        bench.store,
        batch_id,
        options=Options(budget_usd=1.0),
        most_bytes=100_000,
    )
    second = bench.wait(again.batch.id, lambda batch: batch.ended)
    assert (second.completed, second.failed) == (len(errors), 0)


def test_a_paused_batch_stands_still_and_a_cancelled_one_keeps_what_is_finished(bench: Bench) -> None:
    """Pause dispatches nothing more; cancel, twice as well as once, ends within ten seconds."""
    engine = bench.installation.engine
    bench.serve("executor")
    bench.serve("batcher")
    batch_id = bench.submit(1_500)
    bench.wait(batch_id, lambda batch: batch.completed > 0)
    pause(engine, batch_id, paused=True)
    begun = time.monotonic()
    cancel(engine, batch_id)
    cancel(engine, batch_id)

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert batch.status == "cancelled"
    assert time.monotonic() - begun < 10
    assert len(output) == batch.completed > 0
    assert Counter(entry["line"] for entry in [*output, *errors]) == Counter(range(1, 1_501))
    assert {entry["error"]["code"] for entry in errors} == {"batch_cancelled"}
    assert cancel(engine, batch_id).status == "cancelled"
    with pytest.raises(UsageError, match="cancelled"):
        pause(engine, batch_id, paused=True)


def test_an_empty_file_fails_with_a_reason(bench: Bench) -> None:
    """Nothing to do is said, not passed over."""
    bench.serve("batcher")
    batch_id = bench.submit(0)

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    assert (batch.status, batch.problem) == ("failed", "the file is empty")


def test_the_same_content_is_recognised(bench: Bench) -> None:
    """A second submit of the same file names the first."""
    engine = bench.installation.engine
    first = bench.submit(3)
    with transaction(engine) as session:
        batches = Batches(session)
        file = batches.file(batches.get(first).input_file)
    assert file is not None

    assert submit(file, Options(), engine=engine).twins == (first,)
