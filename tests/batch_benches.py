"""A bench for offline batches: an installation with simulated LLMs, and what a person does with batches."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exactly_once import WorkerProcess
from installations import Installation

from workers.batches.folders import Store
from workers.batches.requests import ENDPOINT, Options
from workers.batches.submission import keep_file, results, submit
from workers.storage.batches import Batch, Batches
from workers.storage.engine import transaction

#: Of the simulated server.
LLMS = ("sim-novice", "sim-scribe")


@dataclass(slots=True)
class Bench:
    """An installation with two simulated LLMs, and batches in a folder of its own."""

    installation: Installation
    store: Store
    folder: Path
    #: Of the server that stands in for the LLMs.
    llms_url: str
    processes: dict[str, WorkerProcess] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        return {"UNIROUTE_BATCHES_FOLDER": str(self.store.root), "UNIROUTE_BATCH_WINDOW": "400"}

    def serve(self, role: str, **environment: str) -> None:
        """Start a role; it is told ``environment`` beside what all are."""
        told = {**self.environment, **environment}
        self.processes[role] = self.installation.serve(role, environment=told)

    def kill(self, role: str) -> None:
        """End a role by SIGKILL."""
        self.processes[role].kill()

    def write(self, lines: int) -> Path:
        """Write a file of so many different lines."""
        path = self.folder / "requests.jsonl"
        with path.open("w") as file:
            for number in range(lines):
                text = f"what red apple, number {number}"
                body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                line = {"custom_id": f"id {number}", "method": "POST", "url": ENDPOINT, "body": body}
                file.write(json.dumps(line) + "\n")
        return path

    def submit(self, lines: int, options: Options | None = None) -> str:
        """Hand in a batch of so many different lines."""
        path = self.write(lines)
        engine = self.installation.engine
        with path.open("rb") as source:
            kept = keep_file(source, filename=path.name, purpose="batch", engine=engine, store=self.store)
        return submit(kept, options or Options(), engine=engine).batch.id

    def wait(self, batch_id: str, until: Callable[[Batch], bool], *, timeout_s: float = 240) -> Batch:
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
