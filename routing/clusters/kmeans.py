"""Fit a k-means map: the clusters of training prompts, in several resolutions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.clusters.cluster_map import ClusterMap
from routing.clusters.placement import check_embeddings
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InvalidInputError

#: Resolutions and temperature measured best on public outcome sets with all-MiniLM-L6-v2.
DEFAULT_SIZES = (5, 10, 20, 40, 80)
DEFAULT_TEMPERATURE = 16.0


def fit_cluster_map(
    X: FloatMatrix,
    *,
    sizes: Sequence[int] = DEFAULT_SIZES,
    temperature: float = DEFAULT_TEMPERATURE,
    fingerprint: Fingerprint,
    seed: int = 0,
) -> ClusterMap:
    """Cluster the unit rows ``X``, shape (n, d), of training prompts: k-means once per size, no labels.

    A size above the number of distinct prompts becomes that number, and sizes that so become equal are kept
    once: 12 prompts with sizes (5, 10, 20, 40) give (5, 10, 12). Size 1 is the mean of all prompts.
    Source: UniRoute (arXiv 2502.08773); scikit-learn ``KMeans(n_init=4, random_state=seed)``.

    Raises ``InvalidInputError`` without a prompt, without a size, or for a size below 1.
    """
    X = check_embeddings(X, fingerprint.dimension)
    kept = cap_sizes(sizes, n_distinct=len(np.unique(X, axis=0)))
    return ClusterMap(
        centroids=np.concatenate([_fit_centroids(X, size, seed) for size in kept]),
        sizes=kept,
        temperature=temperature,
        fingerprint=fingerprint,
    )


def cap_sizes(sizes: Sequence[int], *, n_distinct: int) -> tuple[int, ...]:
    """Bring every size down to ``n_distinct`` and keep equal ones once, in their order."""
    if n_distinct < 1:
        raise InvalidInputError("embeddings", "must hold at least one prompt")
    if not sizes or min(sizes) < 1:
        raise InvalidInputError("sizes", f"must be numbers of clusters, at least 1 each, not {tuple(sizes)}")
    return tuple(dict.fromkeys(min(int(size), n_distinct) for size in sizes))


def _fit_centroids(X: FloatMatrix, size: int, seed: int) -> FloatMatrix:
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=size, n_init=4, random_state=seed).fit(X)
    centroids: NDArray[np.float32] = model.cluster_centers_.astype(np.float32)
    return centroids
