"""Where batches lie on disk: the files that were given, and one folder for each batch's work and results."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """One batch's files. What ends in ``.part`` is being written; a name without it is complete."""

    path: Path

    @property
    def lines(self) -> Path:
        """Custom ids and bodies of the good lines, one behind the other."""
        return self.path / "lines.bin"

    @property
    def index(self) -> Path:
        """Where each good line lies in ``lines``; it exists once all lines were checked."""
        return self.path / "lines.npy"

    @property
    def limits(self) -> Path:
        """The distinct limits that good lines have."""
        return self.path / "limits.json"

    @property
    def invalid(self) -> Path:
        """Entries of the error file for the lines that were refused."""
        return self.path / "invalid.jsonl"

    @property
    def vectors(self) -> Path:
        """Embeddings of the good lines, one row behind the other."""
        return self.path / "vectors.f32"

    @property
    def embedder(self) -> Path:
        """The fingerprint of the embedder that wrote ``vectors``."""
        return self.path / "embedder.json"

    @property
    def written(self) -> Path:
        """For each reply that was collected, in order: its line, and where its entry lies."""
        return self.path / "written.bin"

    @property
    def output(self) -> Path:
        """The output file."""
        return self.path / "output.jsonl"

    @property
    def errors(self) -> Path:
        """The error file."""
        return self.path / "errors.jsonl"

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the folder, and tell whether that went well: it does not while a live process holds it.

        The lock ends with the process, however that ends; a frozen one keeps it, and nobody else writes.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of all batches; every process that takes part in one sees the same."""

    root: Path

    def batch(self, batch_id: str) -> BatchFolder:
        """Give the folder of a batch."""
        return BatchFolder(self.root / batch_id)

    def file(self, file_id: str) -> Path:
        """Give where the bytes of a file that was given lie."""
        return self.root / "files" / file_id

    def draft(self) -> Path:
        """Give a new name to write a file under until it is whole."""
        folder = self.root / "files"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f".draft-{uuid.uuid4().hex}"


def part(path: Path) -> Path:
    """Give the name that a file has until it is complete."""
    return path.with_name(f"{path.name}.part")


def complete(path: Path, *, draft: Path | None = None) -> None:
    """Give a file, or the draft of one, its final name, once its content is on the disk."""
    draft = draft or part(path)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
