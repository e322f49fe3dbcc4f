"""How a cluster map and an LLM come to be: fit the map, register the LLM, learn it from labelled prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from threadpoolctl import threadpool_limits

from routing.clusters import ClusterMap, fit_cluster_map
from routing.clusters.kmeans import DEFAULT_TEMPERATURE
from routing.embedders import Embedder, FloatMatrix
from routing.learning import PromptMix
from routing.quality.counts import count_errors
from routing.quality.pool_prior import fit_pool_prior
from routing.quality.temperatures import fit_soft_temperature
from workers.errors import UsageError
from workers.learner import refit, watched_resolution
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.llms import LLMs, Registration
from workers.topics import create_topics, llm_topics

#: Cells of each resolution: PoolPrior's own choice.
DEFAULT_SIZES = (5, 10, 20, 40, 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownErrors:
    """What LLMs that are already known did on some prompts: how cluster errors move together."""

    #: Shape (n, d).
    embeddings: FloatMatrix
    #: Shape (n, S), in 0..1.
    errors: NDArray[np.float64]


def fit_map(
    engine: Engine,
    embedder: Embedder,
    embeddings: FloatMatrix,
    *,
    known: KnownErrors | None = None,
    sizes: Sequence[int] = DEFAULT_SIZES,
    temperature: float | None = None,
    seed: int = 0,
) -> str:
    """Fit a map on the embeddings of training prompts, keep it and give its version.

    ``embeddings`` has shape (n, d) and is ``embedder``'s. The prior is learned from ``known``, once for this
    map, and so is the ``temperature`` where none is given; without ``known``, every LLM is read by its own
    labels alone and the temperature is 16. The first map is put in force at once; a later
    one, on which nothing is known of the LLMs yet, only by ``activate_map``. Raises ``UsageError`` for too
    few prompts.
    """
    if len(embeddings) < min(sizes):
        raise UsageError(f"{len(embeddings)} prompts cannot fill {min(sizes)} clusters: give more prompts")
    with threadpool_limits(1):  # k-means multiplies small matrices: more threads wait more than they work
        fitted = fit_cluster_map(
            embeddings,
            sizes=tuple(sizes),
            temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
            fingerprint=embedder.fingerprint,
            seed=seed,
        )
        known = known or KnownErrors(embeddings=embeddings[:0], errors=np.zeros((0, 0)))
        if temperature is None:
            fitted = fit_soft_temperature(fitted, known.embeddings, known.errors)
        prior = fit_pool_prior(fitted.cells(known.embeddings), known.errors, sizes=fitted.sizes)
    with transaction(engine) as session:
        maps = ClusterMaps(session)
        version = maps.add(fitted, prior, mix=_mix_of(fitted, embeddings))
        if maps.active() is None:
            maps.activate(version)
    refit(engine, reason="a new cluster map", wait=True)
    return version


def _mix_of(fitted: ClusterMap, embeddings: FloatMatrix) -> PromptMix:
    """Sum up the prompts that a map was fitted on, as the learner does those that are routed."""
    placed, middle = fitted.place(embeddings), len(fitted.sizes) // 2
    watched = watched_resolution(fitted.sizes)
    distances = np.zeros(0) if placed.distances is None else placed.distances
    return PromptMix.of(placed.cells[:, middle] - watched.start, distances, size=fitted.sizes[middle])


def activate_map(engine: Engine, version: str, *, even_blind: bool = False) -> None:
    """Put a map in force in place of another.

    Raises ``UsageError`` for a map that is not kept, and, unless ``even_blind``, for one on which a live
    LLM has no labels: all such LLMs would tie, and the cheapest would take all traffic.
    """
    with transaction(engine) as session:
        fitted = ClusterMaps(session).get(version)
        if fitted is None:
            raise UsageError(f"there is no cluster map {version}: `uniroute map list` shows those there are")
        names = [found.llm.name for found in LLMs(session).list(states=("active", "canary"))]
        counts = CellCounts(session).read(version, names, n_cells=sum(fitted.cluster_map.sizes))
        unknown = [name for name, labels in zip(names, counts.labels.sum(axis=0), strict=True) if labels == 0]
        if unknown and not even_blind:
            raise UsageError(
                f"nothing is known of {', '.join(unknown)} on cluster map {version}, so the cheapest would "
                "take all prompts: --even-blind changes over all the same; teach each LLM anew then, by "
                "`uniroute llm remove` and `uniroute llm add --labels`"
            )
        ClusterMaps(session).activate(version)
    refit(engine, reason=f"cluster map {version} is in force", wait=True)


def onboard(
    engine: Engine,
    settings: Settings,
    registration: Registration,
    *,
    embeddings: FloatMatrix,
    scores: NDArray[np.float64],
) -> int | None:
    """Register an LLM, learn its error rates from labelled prompts, and publish; give the rates' version.

    ``embeddings`` (N, d) and ``scores`` (N,) in 0..1 are the labelled prompts and how well the LLM answered
    them; N may be 0. Routers choose the LLM as soon as they see the version, with no restart; no other LLM's
    numbers move. Its topics exist before any router can choose it. Raises ``UsageError`` where no cluster map
    is in force, ``InvalidInputError`` for a score outside 0..1.
    """
    with transaction(engine) as session:
        fitted = ClusterMaps(session).active()
    if fitted is None:
        raise UsageError(
            "no cluster map is in force, so labels cannot be counted: run `uniroute map fit` first"
        )
    name = registration.llm.name
    counts = count_errors(
        fitted.cluster_map.cells(embeddings),
        np.zeros(len(scores), dtype=np.int64),
        1.0 - scores,
        n_cells=sum(fitted.cluster_map.sizes),
        n_llms=1,
    )
    create_topics(settings, llm_topics(name, settings))
    with transaction(engine) as session:
        LLMs(session).register(registration)
        seen = np.flatnonzero(counts.labels[:, 0])
        CellCounts(session).add(
            fitted.cluster_map.version,
            [name] * len(seen),
            seen,
            counts.errors[seen, 0],
            counts.labels[seen, 0],
            evidence="label",
        )
    return refit(engine, reason=f"{name} joined with {len(scores)} labels", wait=True)
