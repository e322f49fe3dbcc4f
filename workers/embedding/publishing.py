"""Gives an artifact its name only when it is whole: built where no one looks, then renamed."""

import datetime as dt
import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from workers.embedding.artifacts import FILES, MANIFEST, Manifest, check_files, file_sha256, read_artifact
from workers.embedding.errors import ArtifactError


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """Give an empty folder below ``folder`` that ``list_artifacts`` does not see; it goes with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".draft-") as draft:
        artifact = Path(draft) / "artifact"
        artifact.mkdir()
        yield artifact


def write_manifest(draft: Path, manifest: Manifest) -> None:
    """Write the manifest, with the hashes of the files that its kind has."""
    files = {name: file_sha256(draft / name) for name in FILES[manifest.kind]}
    encoded = msgspec.json.encode(msgspec.structs.replace(manifest, files=files))
    (draft / MANIFEST).write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")


def publish(draft: Path, folder: Path) -> Path:
    """Rename a draft to ``NAME-CHECKSUM`` in ``folder`` and give that path.

    An artifact that is already there and whole is kept as it is, so exporting twice changes nothing; one
    that is damaged is replaced. Of two processes that publish the same, one wins and both get its path.
    """
    artifact = read_artifact(draft)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", artifact.manifest.name).strip(".-") or "model"
    final = folder / f"{slug}-{artifact.checksum[:12]}"
    if final.exists() and not _is_whole(final):
        shutil.rmtree(final)
    try:
        draft.rename(final)
    except OSError:
        # Someone else's is there: good, if it is the same.
        if not _is_whole(final):
            raise
    return final


def _is_whole(folder: Path) -> bool:
    try:
        check_files(read_artifact(folder))
    except ArtifactError:
        return False
    return True


def describe_exporter(*distributions: str) -> str:
    """Name the versions that made an artifact."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("uniroute", *distributions))


def utc_now() -> str:
    """Give the time of an export, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
