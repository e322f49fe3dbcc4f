"""Cluster maps for estimators that were given none: fitted once per set of training prompts, then shared."""

import hashlib
from collections import OrderedDict

from routing.clusters import ClusterMap, fit_cluster_map
from routing.embedders import Fingerprint, FloatMatrix

#: Maps kept; the one longest unused goes first.
_KEPT = 16
_fitted: OrderedDict[tuple[str, tuple[int, ...], int], ClusterMap] = OrderedDict()


def share_map(X: FloatMatrix, *, sizes: tuple[int, ...], temperature: float, seed: int) -> ClusterMap:
    """Give the k-means map of unit rows ``X``, as ``fit_cluster_map`` would, without fitting it twice.

    A map depends on the prompts alone, not on the LLMs, so an evaluation over many pools of LLMs needs
    one. Equal bytes of ``X``, sizes and seed mean the same clusters: the memory changes the time a call
    takes, never its result. The fingerprint says only the dimension, since embeddings do not tell whose
    they are.
    """
    key = (hashlib.blake2b(X.tobytes(), digest_size=16).hexdigest() + repr(X.shape), sizes, seed)
    found = _fitted.pop(key, None)
    if found is None:
        fingerprint = Fingerprint(
            name="unnamed", dimension=X.shape[1], precision="f32", max_length=0, checksum=""
        )
        found = fit_cluster_map(X, sizes=sizes, temperature=temperature, fingerprint=fingerprint, seed=seed)
    _fitted[key] = found
    if len(_fitted) > _KEPT:
        _fitted.popitem(last=False)
    return found.with_temperature(temperature)
