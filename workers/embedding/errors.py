"""What can be wrong with an embedder, each error with its fix in the sentence.

::

    UsageError
    └── EmbedderError
        ├── ArtifactError             a folder that is no artifact, or no longer the one that was exported
        ├── BackendUnavailableError   a back end that this machine or installation cannot run
        └── UnsupportedModelError     a model that cannot become an artifact
"""

from pathlib import Path

from workers.errors import UsageError


class EmbedderError(UsageError):
    """Root of the embedders' errors."""


class ArtifactError(EmbedderError):
    """A folder that is no artifact, or whose files are not the ones that were exported."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"embedder artifact {folder}: {problem}")
        self.folder = folder
        self.problem = problem


class BackendUnavailableError(EmbedderError):
    """A back end, or a precision of it, that cannot run here."""

    def __init__(self, backend: str, problem: str) -> None:
        super().__init__(f"embedding back end {backend!r}: {problem}")
        self.backend = backend
        self.problem = problem


class UnsupportedModelError(EmbedderError):
    """A model that sentence-transformers may load, but that the export would not reproduce."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"model {source!r} cannot be exported: {problem}")
        self.source = source
        self.problem = problem
