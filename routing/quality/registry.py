"""Every estimator under the name by which reports and settings know it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from routing.quality.contrastive import Contrastive
from routing.quality.estimators import Estimator
from routing.quality.item_response import ItemResponse
from routing.quality.neighbours import NearestNeighbours
from routing.quality.pooled import PoolPriorEstimator
from routing.quality.random_embedding import RandomEmbedding
from routing.quality.routoo import Routoo
from routing.quality.shrunk import ShrunkCells
from routing.quality.uniroute import UniRouteKMeans, UniRouteLearned
from routing.quality.zero import ZeroRouter

_STACKED = (5, 10, 20, 40, 80)

#: Name to a function of the seed that gives a fresh estimator; equal seeds give equal estimators. Those
#: that use clusters share one fit of them per set of training prompts and seed. ``soft-shrunk`` (12),
#: ``multi-soft-shrunk`` and ``pool-prior`` (16) keep the temperatures at which their published levels were
#: measured; ``default`` is PoolPrior at the temperature that the known LLMs speak for.
ESTIMATORS: Mapping[str, Callable[[int], Estimator]] = MappingProxyType(
    {
        "zero": lambda _: ZeroRouter(),
        "random-embedding": lambda seed: RandomEmbedding(seed=seed),
        "knn": lambda _: NearestNeighbours(),
        "uniroute-kmeans": lambda seed: UniRouteKMeans(seed=seed),
        "uniroute-learned": lambda seed: UniRouteLearned(seed=seed),
        "shrunk": lambda seed: ShrunkCells(seed=seed),
        "soft-shrunk": lambda seed: ShrunkCells(temperature=12.0, seed=seed),
        "multi-soft-shrunk": lambda seed: ShrunkCells(
            sizes=_STACKED, temperature=16.0, use_level=True, seed=seed
        ),
        "pool-prior": lambda seed: PoolPriorEstimator(sizes=_STACKED, temperature=16.0, seed=seed),
        "routoo": lambda seed: Routoo(seed=seed),
        "irt": lambda _: ItemResponse(),
        "contrastive": lambda seed: Contrastive(seed=seed),
        "default": lambda seed: PoolPriorEstimator(sizes=_STACKED, seed=seed),
    }
)
