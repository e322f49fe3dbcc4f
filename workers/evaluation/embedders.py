"""What an embedder costs in routing quality: the same study with each, difference paired by trial."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from routing.embedders import Embedder, FloatMatrix
from workers.embedding.cache import DEFAULT_FOLDER, cached_embeddings
from workers.evaluation.study import Study, run_study

METHOD = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaDifference:
    """Mean Area of the default method with one embedder, and what is lost or won against the first."""

    area: float
    area_difference: float
    #: Half the 95 % interval of the difference: Student's t over trials.
    area_half_width: float


def compare_areas(
    embedders: Sequence[tuple[str, Embedder]],
    outcomes: Path,
    *,
    trials: int,
    cache: Path = DEFAULT_FOLDER,
) -> Iterator[AreaDifference]:
    """Run an outcome folder's study with each embedder on equal draws of LLMs and labels, so paired by trial.

    Embeddings of the folder's prompts are kept in ``cache``. At least two trials; raises as ``run_study``
    does.
    """
    first = None
    for label, embedder in embedders:
        findings = run_study(
            Study(folder=outcomes, trials=trials, methods=("uniroute-kmeans", METHOD)),
            embed=partial(_embed, embedder, label, cache),
        )
        areas = findings.evaluations[0].methods[METHOD].areas
        first = areas if first is None else first
        lost = areas - first
        error = float(np.std(lost, ddof=1)) / np.sqrt(trials)
        yield AreaDifference(
            area=float(areas.mean()),
            area_difference=float(lost.mean()),
            area_half_width=float(stdtrit(trials - 1, 0.975) * error),
        )


def _embed(embedder: Embedder, label: str, cache: Path, texts: Sequence[str]) -> tuple[FloatMatrix, str]:
    return cached_embeddings(embedder, texts, cache), label
