"""Maps from a prompt's embedding to its cluster weights, hard or soft, in one or several resolutions."""

from routing.clusters.cluster_map import ClusterMap
from routing.clusters.files import unpack_arrays
from routing.clusters.kmeans import fit_cluster_map
from routing.clusters.learned import LearnedMap, soften_map
from routing.clusters.learning import Training, fit_learned_map
from routing.clusters.placement import PARTS, Placement, PromptMap, Share, split_observation
from routing.clusters.selection import (
    Selection,
    fit_temperature,
    select_map,
    select_size,
    select_temperature,
)
from routing.errors import InvalidInputError

__all__ = [
    "PARTS",
    "ClusterMap",
    "LearnedMap",
    "Placement",
    "PromptMap",
    "Selection",
    "Share",
    "Training",
    "fit_cluster_map",
    "fit_learned_map",
    "fit_temperature",
    "load_map",
    "select_map",
    "select_size",
    "select_temperature",
    "soften_map",
    "split_observation",
]


def load_map(data: bytes) -> ClusterMap | LearnedMap:
    """Read a map of either kind from what its ``to_bytes`` gave; ``InvalidInputError`` for anything else."""
    header, _ = unpack_arrays(data, kind=None, names=())
    match header.get("kind"):
        case "kmeans":
            return ClusterMap.from_bytes(data)
        case "learned":
            return LearnedMap.from_bytes(data)
        case other:
            raise InvalidInputError("cluster map", f"is of an unknown kind {other!r}")
