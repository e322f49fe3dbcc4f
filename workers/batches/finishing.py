"""Gives a batch's files their final names, and copies them to where they were asked for."""

import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np

from workers.batches.collecting import ENTRY
from workers.batches.folders import BatchFolder, complete, part

_COPY_BYTES = 1024 * 1024


def write_results(folder: BatchFolder, *, order: str) -> None:
    """Complete the output and the error file; safe to call again after a crash at any point.

    Bad lines of the input come first in the error file. ``order`` ``input`` sorts the output by line.
    """
    if not folder.errors.exists():
        draft = part(folder.errors).with_suffix(".sealed")
        with draft.open("wb") as file:
            for source in (folder.invalid, part(folder.errors)):
                _append(source, file)
        complete(folder.errors, draft=draft)
    if not folder.output.exists():
        part(folder.output).touch()
        draft = part(folder.output)
        if order == "input" and folder.written.exists():
            draft = _write_sorted(folder)
        complete(folder.output, draft=draft)


def drop_work(folder: BatchFolder) -> None:
    """Remove what only a running batch needs; what was collected only once it has its final name."""
    for path in (folder.output, folder.errors):
        if path.exists():
            part(path).unlink(missing_ok=True)
    for path in (
        folder.lines,
        folder.index,
        folder.limits,
        folder.invalid,
        folder.vectors,
        folder.embedder,
        folder.written,
    ):
        path.unlink(missing_ok=True)


def _append(source: Path, file: BinaryIO) -> None:
    if source.exists():
        with source.open("rb") as read:
            shutil.copyfileobj(read, file, _COPY_BYTES)


def _write_sorted(folder: BatchFolder) -> Path:
    """Write a draft of the output in the order of the input; what was collected stays as it is."""
    entries = np.frombuffer(folder.written.read_bytes(), dtype=ENTRY)
    entries = entries[entries["failed"] == 0]
    entries = entries[np.argsort(entries["row"], kind="stable")]
    draft = folder.output.with_suffix(".sorted")
    with part(folder.output).open("rb") as read, draft.open("wb") as written:
        for at, size in zip(entries["at"].tolist(), entries["bytes"].tolist(), strict=True):
            read.seek(at)
            written.write(read.read(size))
    return draft
