"""What commands on folders of recorded outcomes share: embedding their prompts, once, with a bar."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from routing.embedders import Embedder, Fingerprint, FloatMatrix
from workers.cli.console import read_settings
from workers.embedding.cache import cached_embeddings
from workers.embedding.export import ensure_artifact
from workers.embedding.loading import load_embedder


def show_progress() -> Progress:
    """Give bars that are gone when they are done, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def embed_texts(named: str, texts: Sequence[str], progress: Progress) -> tuple[FloatMatrix, Fingerprint]:
    """Embed texts with an artifact, from the cache if it has them; give the rows and whose they are."""
    task = progress.add_task("prompts", total=len(texts))
    encoder = _open_embedder(named)
    rows = cached_embeddings(encoder, texts, progress=lambda done, _: progress.update(task, completed=done))
    return rows, encoder.fingerprint


def _open_embedder(named: str) -> Embedder:
    """Open an artifact by its folder or its name; a model without one is exported, once."""
    settings = read_settings()
    folder = Path(named)
    if not folder.is_dir():
        folder = ensure_artifact(named, settings.embedders_folder)
    return load_embedder(folder, backend=settings.embedder_backend, threads=settings.embedder_threads)
