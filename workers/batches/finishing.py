"""Gives a batch's files their final names, and copies them to where they were asked for."""

import os
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
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder.errors)
    if not folder.output.exists():
        if order == "input" and folder.written.exists():
            _sort_output(folder)
        part(folder.output).touch()
        complete(folder.output)


def drop_work(folder: BatchFolder) -> None:
    """Remove what only a running batch needs."""
    for path in (
        folder.lines,
        folder.index,
        folder.limits,
        folder.invalid,
        folder.vectors,
        folder.embedder,
        folder.written,
        part(folder.errors),
    ):
        path.unlink(missing_ok=True)


def _append(source: Path, file: BinaryIO) -> None:
    if source.exists():
        with source.open("rb") as read:
            shutil.copyfileobj(read, file, _COPY_BYTES)


def _sort_output(folder: BatchFolder) -> None:
    """Write the output anew in the order of the input."""
    entries = np.frombuffer(folder.written.read_bytes(), dtype=ENTRY)
    entries = entries[entries["failed"] == 0]
    entries = entries[np.argsort(entries["row"], kind="stable")]
    draft = folder.output.with_suffix(".sorted")
    with part(folder.output).open("rb") as read, draft.open("wb") as written:
        for at, size in zip(entries["at"].tolist(), entries["bytes"].tolist(), strict=True):
            read.seek(at)
            written.write(read.read(size))
    draft.replace(part(folder.output))
