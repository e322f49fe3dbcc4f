"""Maps from a prompt's embedding to its cluster weights, hard or soft, in one or several resolutions."""

from routing.clusters.cluster_map import ClusterMap
from routing.clusters.kmeans import fit_cluster_map
from routing.clusters.placement import Placement, PromptMap

__all__ = ["ClusterMap", "Placement", "PromptMap", "fit_cluster_map"]
