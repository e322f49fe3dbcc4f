"""Embedders side by side on the same texts: how fast each is, and how nearly it agrees with the first."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from routing.embedders import Embedder, Fingerprint, FloatMatrix

#: Clusters of the k-means that agreement is counted in; the paper's usual number.
CLUSTERS = 20
#: Texts encoded before the clock starts, so that no back end is charged for its first shapes.
WARM_UP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one embedder did with the texts; agreement is with the first embedder compared."""

    label: str
    fingerprint: Fingerprint
    prompts_per_second: float
    #: Processor time of this process, all threads, in seconds for 1,000 prompts.
    cpu_seconds_per_1000: float
    #: Cosine to the first embedder's vector of the same text; None in another space.
    cosine_mean: float | None
    cosine_min: float | None
    #: Share of texts in the same cluster, under k-means of the first embedder's vectors; None in another
    #: space.
    same_cluster: float | None


def compare_embedders(
    embedders: Sequence[tuple[str, Embedder]], texts: Sequence[str]
) -> Iterator[Comparison]:
    """Encode ``texts`` with each labelled embedder in turn and yield its comparison with the first.

    An embedder whose model or dimension is not the first's gives vectors in a space of its own, where
    neither cosine nor cluster means anything: those are None. Clusters are 20, or as many as there are
    distinct texts, by k-means with seed 0.
    """
    reference: FloatMatrix | None = None
    name = ""
    for label, embedder in embedders:
        embedder.encode(texts[:WARM_UP])
        vectors, wall, cpu = _encode_timed(embedder, texts)
        if reference is None:
            reference, name = vectors, embedder.fingerprint.name
        comparable = embedder.fingerprint.name == name and vectors.shape == reference.shape
        cosines = np.sum(vectors * reference, axis=1) if comparable else None
        yield Comparison(
            label=label,
            fingerprint=embedder.fingerprint,
            prompts_per_second=len(texts) / wall,
            cpu_seconds_per_1000=1000 * cpu / len(texts),
            cosine_mean=None if cosines is None else float(cosines.mean()),
            cosine_min=None if cosines is None else float(cosines.min()),
            same_cluster=share_equal_clusters(reference, vectors) if comparable else None,
        )


def share_equal_clusters(reference: FloatMatrix, vectors: FloatMatrix, clusters: int = CLUSTERS) -> float:
    """Give the share of rows, in [0, 1], with the same nearest centroid of the reference's k-means."""
    from sklearn.cluster import KMeans

    # Equal texts are no ground for more clusters; their vectors differ in the last digits.
    distinct = len(np.unique(reference.round(4), axis=0))
    kmeans = KMeans(min(clusters, distinct), n_init=1, random_state=0).fit(reference)
    return float(np.mean(kmeans.predict(vectors) == kmeans.predict(reference)))


def _encode_timed(embedder: Embedder, texts: Sequence[str]) -> tuple[FloatMatrix, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = embedder.encode(texts)
    return vectors, time.perf_counter() - wall, time.process_time() - cpu
