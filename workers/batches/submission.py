"""What people and programs ask of batches: hand a file in, pause it, cancel it, take its results."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, Self

from sqlalchemy import Engine

from workers.batches.folders import Store
from workers.batches.lines import read_lines
from workers.batches.requests import Options
from workers.errors import UsageError
from workers.storage.batches import Batch, Batches, BatchFile
from workers.storage.engine import transaction
from workers.storage.policies import Policies
from workers.storage.tenants import DEFAULT_TENANT, Tenants

#: OpenAI's completion window.
DEFAULT_WINDOW = timedelta(hours=24)
_COPY_BYTES = 1024 * 1024
#: Errors that a second try cannot mend: the line itself is at fault.
_LASTING = frozenset(
    {
        "too_large",
        "wrong_encoding",
        "not_json",
        "invalid_line",
        "invalid_body",
        "duplicate_custom_id",
        "empty",
        "truncated_file",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A batch that was handed in, and earlier ones of the same content."""

    batch: Batch
    twins: tuple[str, ...] = ()


class Intake:
    """Takes a file in by pieces, and keeps it once it is whole; leaving the block before drops it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._draft = store.draft()
        self._file = self._draft.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self._file.write(piece)
        self._digest.update(piece)
        self._size += len(piece)

    def keep(self, *, filename: str, purpose: str, engine: Engine, tenant: str = "") -> BatchFile:
        """Keep the file under an id of its own, and say what was kept."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        file_id = f"file-{uuid.uuid4().hex}"
        self._draft.replace(self._store.file(file_id))
        with transaction(engine) as session:
            return Batches(session).add_file(
                file_id,
                filename=filename,
                purpose=purpose,
                size=self._size,
                sha256=self._digest.hexdigest(),
                tenant=tenant,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)


def keep_file(
    source: BinaryIO, *, filename: str, purpose: str, engine: Engine, store: Store, tenant: str = ""
) -> BatchFile:
    """Copy a file into the store, in pieces, and say what was kept."""
    with Intake(store) as intake:
        while piece := source.read(_COPY_BYTES):
            intake.write(piece)
        return intake.keep(filename=filename, purpose=purpose, engine=engine, tenant=tenant)


def keep_rows(
    lines: Iterable[bytes], *, filename: str, engine: Engine, store: Store, tenant: str = ""
) -> BatchFile:
    """Keep lines that are made of a table's rows."""
    with Intake(store) as intake:
        for line in lines:
            intake.write(line)
        return intake.keep(filename=filename, purpose="batch", engine=engine, tenant=tenant)


def submit(
    file: BatchFile, options: Options, *, engine: Engine, window: timedelta = DEFAULT_WINDOW, tenant: str = ""
) -> Submitted:
    """Make a batch of a file that is kept; a batcher takes it up.

    ``UsageError`` for a tenant or a policy that there is none of.
    """
    with transaction(engine) as session:
        Tenants(session).get(tenant or DEFAULT_TENANT)
        policies = Policies(session).current()
        if options.policy is not None and options.policy not in policies:
            raise UsageError(f"no policy is named {options.policy!r}; in force: {', '.join(policies)}")
        batches = Batches(session)
        twins = tuple(twin.id for twin in batches.twins(file.sha256))
        batch = batches.create(
            f"batch_{uuid.uuid4().hex}",
            input_file=file.id,
            options=options.as_dict(),
            deadline=batches.now() + window,
            tenant=tenant,
        )
        batches.note(batch.id, "submitted", file=file.filename, sha256=file.sha256, twins=list(twins))
    return Submitted(batch=batch, twins=twins)


def pause(engine: Engine, batch_id: str, *, paused: bool) -> Batch:
    """Stop dispatching, or go on; what is under way is answered. ``UsageError`` where the batch has ended."""
    with transaction(engine) as session:
        batches = Batches(session)
        batch = batches.get(batch_id)
        if batch.ended:
            raise UsageError(f"{batch_id} is {batch.status}: nothing of it runs any more")
        if batch.paused != paused:
            batches.set(batch_id, paused=paused)
            batches.note(batch_id, "paused" if paused else "resumed")
        return batches.get(batch_id)


def cancel(engine: Engine, batch_id: str) -> Batch:
    """Ask for an end; twice is the same as once, and a batch that has ended stays as it is."""
    with transaction(engine) as session:
        batches = Batches(session)
        batches.get(batch_id)
        since = ("validating", "in_progress", "finalizing")
        if batches.move(batch_id, "cancelling", since=since, cancelling_at=batches.now(), outcome=None):
            batches.note(batch_id, "cancelling")
        return batches.get(batch_id)


def results(store: Store, batch: Batch) -> dict[str, Path]:
    """Give the files of a batch that has ended: ``output`` and ``errors``; ``UsageError`` before."""
    if not batch.ended:
        raise UsageError(f"{batch.id} is {batch.status}: its files are complete when it has ended")
    folder = store.batch(batch.id)
    return {
        name: path for name, path in (("output", folder.output), ("errors", folder.errors)) if path.exists()
    }


def retry_failed(
    engine: Engine, store: Store, batch_id: str, *, budget_usd: float | None = None, most_bytes: int
) -> Submitted:
    """Make a batch of those lines of an ended batch that a second try may answer.

    ``UsageError`` where there are none. The new batch has the old one's options, and as much time; its budget
    is what was left of the old one's, unless another is given.
    """
    with transaction(engine) as session:
        batches = Batches(session)
        batch = batches.get(batch_id)
        file = batches.file(batch.input_file)
    errors = results(store, batch).get("errors")
    numbers = set() if errors is None else set(_read_mendable(errors))
    if not numbers or file is None:
        raise UsageError(f"{batch_id} has no failed line that a second try may answer")
    options = Options.read(batch.options)
    options = _less(options, batch) if budget_usd is None else replace(options, budget_usd=budget_usd)
    draft, last = store.draft(), max(numbers)
    with draft.open("wb") as written:
        lines = read_lines(store.file(batch.input_file), max_bytes=most_bytes)
        for line in takewhile(lambda line: line.number <= last, lines):
            if line.number in numbers:
                written.write(line.value + b"\n")
    try:
        with draft.open("rb") as again:
            kept = keep_file(
                again,
                filename=f"retry of {file.filename}",
                purpose="batch",
                engine=engine,
                store=store,
                tenant=batch.tenant,
            )
    finally:
        draft.unlink()
    window = batch.deadline - batch.created_at
    submitted = submit(kept, options, engine=engine, window=window, tenant=batch.tenant)
    with transaction(engine) as session:
        Batches(session).note(submitted.batch.id, "retries", batch=batch_id, lines=len(numbers))
    return submitted


def _less(options: Options, batch: Batch) -> Options:
    if options.budget_usd is None:
        return options
    left = options.budget_usd - float(batch.spent_usd + batch.unsettled_usd)
    if left <= 0:
        raise UsageError(f"{batch.id} has spent its budget: give another one by --budget-usd")
    return replace(options, budget_usd=left)


def _read_mendable(errors: Path) -> Iterable[int]:
    with errors.open("rb") as file:
        for raw in file:
            entry: dict[str, Any] = json.loads(raw)
            if (entry.get("error") or {}).get("code") not in _LASTING:
                yield int(entry["line"])
