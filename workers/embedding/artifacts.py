"""Embedder artifacts: a folder with a model's graph, its tokenizer, and a manifest that says whose they are.

The manifest names the SHA-256 of every other file, so a folder that was cut short, edited or mixed up is
refused when it is opened, not discovered in the routing.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from routing.embedders import Fingerprint
from workers.embedding.errors import ArtifactError

#: Arithmetic that a transformer can be computed in.
Precision = Literal["f32", "bf16"]
#: What computes vectors, as fingerprints name it.
Runtime = Literal["sentence-transformers", "openvino", "onnxruntime", "static"]

MANIFEST = "manifest.json"
MODEL = "model.onnx"
TABLE = "table.npy"
TOKENIZER = "tokenizer.json"
#: The only files that a manifest may name, by kind.
FILES: dict[str, frozenset[str]] = {
    "transformer": frozenset({MODEL, TOKENIZER}),
    "static": frozenset({TABLE, TOKENIZER}),
}
#: Encoded by every process that opens an artifact, and compared with the manifest's ``probe``.
PROBE_TEXT = "How many prompts does a router route, if a router routes prompts?"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``manifest.json`` holds."""

    format: Literal[1] = 1
    #: ``transformer``: an ONNX graph; ``static``: a table of one vector per token.
    kind: Literal["transformer", "static"]
    #: The model's public name, without an organisation.
    name: str
    dimension: int
    #: Tokens beyond this many are not read, special tokens included.
    max_length: int
    pooling: Literal["mean", "cls"]
    #: The token that fills the short rows of a batch.
    pad_id: int
    #: SHA-256 in hex of every file of the folder but this one.
    files: dict[str, str]
    #: The unit vector of ``PROBE_TEXT`` by sentence-transformers.
    probe: list[float]
    #: What was exported: a model's name on the hub, or a folder.
    source: str
    #: The hub's commit, if it came from there.
    revision: str | None = None
    #: The versions that made it.
    exporter: str
    #: UTC, ISO 8601.
    exported_at: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder that holds an embedder, as its manifest describes it."""

    folder: Path
    manifest: Manifest

    @property
    def checksum(self) -> str:
        """SHA-256 over the sorted lines ``sha256  file`` of the manifest: model and tokenizer together."""
        lines = "".join(f"{digest}  {file}\n" for file, digest in sorted(self.manifest.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def fingerprint(self, runtime: Runtime, precision: Precision = "f32") -> Fingerprint:
        """Whose vectors ``runtime`` computes from this artifact in this precision: each has its own."""
        return Fingerprint(
            name=self.manifest.name,
            dimension=self.manifest.dimension,
            precision=name_arithmetic(runtime, precision),
            max_length=self.manifest.max_length,
            checksum=self.checksum,
        )


def name_arithmetic(runtime: Runtime, precision: Precision) -> str:
    """Give what a fingerprint calls its precision, e.g. ``f32-openvino``.

    Back ends that compute one graph exactly still round it differently in the last digits, so each has a
    name of its own.
    """
    return f"{precision}-{runtime}"


def file_sha256(path: Path) -> str:
    """Hash a file without reading it into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_artifact(folder: Path) -> Artifact:
    """Read a folder's manifest; ``ArtifactError`` if it has none. ``check_files`` hashes the files."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            folder, f"there is no {MANIFEST}; export one: uniroute embedder export"
        ) from error
    except msgspec.DecodeError as error:
        raise ArtifactError(
            folder, f"{MANIFEST} is not one of an embedder ({error}); export it again"
        ) from error
    if set(manifest.files) != FILES[manifest.kind]:
        raise ArtifactError(folder, f"{MANIFEST} names {sorted(manifest.files)}; export it again")
    if len(manifest.probe) != manifest.dimension:
        raise ArtifactError(folder, f"its probe is not of length {manifest.dimension}; export it again")
    return Artifact(folder, manifest)


def check_files(artifact: Artifact) -> None:
    """Compare every file with the hash in the manifest; ``ArtifactError`` names the first that differs."""
    for name, expected in sorted(artifact.manifest.files.items()):
        path = artifact.folder / name
        if not path.is_file():
            raise ArtifactError(artifact.folder, f"{name} is missing; export it again")
        if (found := file_sha256(path)) != expected:
            raise ArtifactError(
                artifact.folder,
                f"{name} is not the file that was exported "
                f"(SHA-256 {found[:12]}..., not {expected[:12]}...); export it again",
            )


def list_artifacts(folder: Path) -> tuple[Artifact, ...]:
    """Every artifact in ``folder``, by name, the newest of a name last; none if the folder does not exist.

    What an export left half-written has a name that begins with a dot and is not listed. A folder whose
    manifest cannot be read raises ``ArtifactError``: it is reported, not skipped.
    """
    if not folder.is_dir():
        return ()
    found = (
        read_artifact(entry)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    )
    return tuple(sorted(found, key=lambda artifact: (artifact.manifest.name, artifact.manifest.exported_at)))


def find_artifact(name: str, folder: Path) -> Artifact:
    """Give the newest artifact of a name, or the one in the folder of that name, else ``ArtifactError``."""
    artifacts = list_artifacts(folder)
    for artifact in reversed(artifacts):
        if name in (artifact.manifest.name, artifact.folder.name, artifact.manifest.source):
            return artifact
    known = ", ".join(sorted({artifact.manifest.name for artifact in artifacts})) or "none"
    raise ArtifactError(
        folder, f"holds no artifact {name!r} (there: {known}); make it: uniroute embedder export {name}"
    )
