"""PoolPrior as an estimator: fits the map and the prior, then reads each new LLM's labels in their light."""

from routing.clusters import ClusterMap
from routing.clusters.kmeans import DEFAULT_TEMPERATURE
from routing.embedders import FloatMatrix
from routing.quality.cells import CellEstimator, choose_map
from routing.quality.counts import Matrix, Vector
from routing.quality.pool_prior import fit_pool_prior
from routing.quality.temperatures import fit_soft_temperature


class PoolPriorEstimator(CellEstimator):
    """Predicts with ``PoolPrior`` over stacked soft maps; after ``fit``, ``prior_`` is the prior.

    Without a ``temperature`` it is fitted on the known LLMs (``fit_soft_temperature``), from 16 on.
    ``cluster_map``, when given, is used at its own temperature instead of fitting one.
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (5, 10, 20, 40, 80),
        temperature: float | None = None,
        cluster_map: ClusterMap | None = None,
        seed: int = 0,
    ) -> None:
        self.sizes = sizes
        self.temperature = temperature
        self.cluster_map = cluster_map
        self.seed = seed

    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:
        start = DEFAULT_TEMPERATURE if self.temperature is None else self.temperature
        found = choose_map(self.cluster_map, X, sizes=tuple(self.sizes), temperature=start, seed=self.seed)
        is_fitted = self.cluster_map is None and self.temperature is None
        self.map_ = fit_soft_temperature(found, X, errors) if is_fitted else found
        self.prior_ = fit_pool_prior(self.map_.cells(X), errors, sizes=self.map_.sizes)

    def _rates(self, errors: Matrix, labels: Matrix) -> Matrix:
        return self.prior_.error_rates(errors, labels)

    def estimate_intervals(
        self, X: FloatMatrix, errors: Vector, *, prompts: Vector | None = None
    ) -> tuple[Vector, Vector]:
        """Give the 90 % intervals, (C,) each, of an LLM's error rate per cell after such labels.

        With ``prompts``, of its mean error over so many further ones per cell; see ``PoolPrior.intervals``.
        """
        lower, upper = self.prior_.intervals(*self._count(X, errors), prompts=prompts)
        return lower[:, 0], upper[:, 0]
