"""PoolPrior, the default estimate: a new LLM's few labels, read in the light of the LLMs already known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, block_diag
from scipy.linalg.lapack import dposv

from routing.clusters.files import pack_arrays, unpack_arrays
from routing.errors import InvalidInputError
from routing.quality.counts import IntMatrix, Matrix, Vector, as_errors, check_counts, slice_resolutions
from routing.quality.shrinkage import LevelPrior, fit_level_prior, shrink_error_rates

_KIND = "pool-prior"
#: Fewer known LLMs than this say nothing of how cells move together.
_FEWEST_FOR_COVARIANCE = 3
#: Half-width of a two-sided 90 % interval of the normal, in standard deviations.
_NORMAL_90 = 1.645
#: A cell with less weight than this counts as unlabelled.
_LEAST_WEIGHT = 1e-12


class _Posterior(NamedTuple):
    """The Gaussian of one LLM's cells after its labels."""

    means: Vector
    variances: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolPrior:
    """What the known LLMs say of any LLM's cell error rates; part of a map's version, frozen with it.

    A new LLM's rates are ``w g + (1 - w) b``: g the mean of the Gaussian N(means, covariance) given its
    labels, b its own shrunk rates (``shrink_error_rates`` with this prior's level), w = max(0, 1 - 2/S).
    With two or fewer known LLMs they are therefore exactly b. Without labels all LLMs tie exactly, so that
    cost decides.
    """

    #: Expected error rate per cell, shape (C,).
    means: Vector
    #: Covariance of cell error rates between LLMs, shape (C, C); 0 between cells of different resolutions,
    #: which are conditioned one by one: each holds every label, and a label is evidence once.
    covariance: Matrix
    #: Number S of known LLMs it was learned from.
    known_llms: int
    #: Expected overall error rate of an LLM.
    level: float
    #: Variance of the overall error rate between LLMs.
    level_variance: float
    #: Cells of each resolution of the map; they sum to C.
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        n_cells = sum(self.sizes)
        if self.means.shape != (n_cells,) or self.covariance.shape != (n_cells, n_cells):
            raise InvalidInputError("covariance", f"{self.covariance.shape} for a map of {self.sizes} cells")
        self.means.setflags(write=False)
        self.covariance.setflags(write=False)

    @property
    def level_prior(self) -> LevelPrior:
        """The prior of an LLM's overall rate, as ``shrink_error_rates`` takes it."""
        return LevelPrior(mean=self.level, variance=self.level_variance)

    @property
    def pool_weight(self) -> float:
        """The weight w = max(0, 1 - 2/S) of what the pool says, in [0, 1)."""
        return max(0.0, 1.0 - 2.0 / self.known_llms) if self.known_llms else 0.0

    def error_rates(self, errors: ArrayLike, labels: ArrayLike) -> Matrix:
        """Estimate the error rates in [0, 1] of LLMs from their counts, all of shape (C, H).

        Counts may be fractional. Each column depends on its own counts alone, to the last bit.
        """
        errors_, labels_ = check_counts(errors, labels, self.sizes)
        own = shrink_error_rates(errors_, labels_, sizes=self.sizes, level=self.level_prior)
        weight = self.pool_weight
        if weight == 0.0:
            return own
        pooled = np.empty_like(own)
        for llm in range(own.shape[1]):
            means = self._condition(*_column(errors_, labels_, llm)).means
            pooled[:, llm] = np.clip(means, 0.001, 0.999)
        return weight * pooled + (1.0 - weight) * own

    def intervals(
        self, errors: ArrayLike, labels: ArrayLike, *, prompts: ArrayLike | None = None
    ) -> tuple[Matrix, Matrix]:
        """Give the 90 % interval of each cell's true error rate: (lower, upper), each (C, H), within [0, 1].

        It is ``error_rates`` +- 1.645 standard deviations of the Gaussian given the labels. With ``prompts``
        (C,), above 0, it is the interval of the mean error over so many further prompts of the cell: their
        own sampling variance p (1 - p) / n comes on top. Rates counted on a test set are held against that.
        """
        rates, variances = self.error_rates(errors, labels), self.deviations(errors, labels) ** 2
        if prompts is not None:
            counts = np.asarray(prompts, dtype=np.float64)
            if counts.shape != (len(rates),) or not np.all(counts > 0):
                raise InvalidInputError("prompts", f"one number above 0 per cell is needed ({len(rates)})")
            variances = variances + rates * (1.0 - rates) / counts[:, None]
        half = _NORMAL_90 * np.sqrt(variances)
        return np.clip(rates - half, 0.0, 1.0), np.clip(rates + half, 0.0, 1.0)

    def deviations(self, errors: ArrayLike, labels: ArrayLike) -> Matrix:
        """Give the standard deviation of each cell's true error rate given the labels, (C, H), in [0, 1]."""
        errors_, labels_ = check_counts(errors, labels, self.sizes)
        found = np.empty_like(errors_)
        for llm in range(found.shape[1]):
            variances = self._condition(*_column(errors_, labels_, llm), spread=True).variances
            found[:, llm] = np.sqrt(np.clip(variances, 0.0, 1.0))
        return found

    def _condition(self, errors: Vector, labels: Vector, *, spread: bool = False) -> _Posterior:
        """Condition the Gaussian of each resolution on one LLM's cell means, whose noise is s2/n.

        The variances are those given the labels only if ``spread`` asks for them.
        """
        means, variances = self.means.copy(), self.covariance.diagonal().copy()
        for cells in slice_resolutions(self.sizes):
            wrong, n = errors[cells], labels[cells]
            seen = np.flatnonzero(n > _LEAST_WEIGHT)
            if seen.size == 0:
                continue
            rate = (wrong.sum() + 1) / (n.sum() + 2)
            noise = max(rate * (1 - rate), 0.02) / n[seen]
            across = self.covariance[cells, cells][seen]
            noisy = across[:, seen] + np.diag(noise)
            residual = wrong[seen] / n[seen] - self.means[cells][seen]
            means[cells] += _solve(noisy, residual) @ across
            if spread:
                variances[cells] -= np.einsum("oc,oc->c", across, _solve(noisy, across))
        return _Posterior(means, variances)

    def to_bytes(self) -> bytes:
        """Write the prior as an npz archive with a JSON header; no pickle."""
        header = {
            "kind": _KIND,
            "known_llms": self.known_llms,
            "level": self.level,
            "level_variance": self.level_variance,
            "sizes": list(self.sizes),
        }
        return pack_arrays(header, {"means": self.means, "covariance": self.covariance})

    @classmethod
    def from_bytes(cls, data: bytes) -> "PoolPrior":
        """Read what ``to_bytes`` wrote, bit for bit; ``InvalidInputError`` for anything else."""
        header, arrays = unpack_arrays(data, kind=_KIND, names=("means", "covariance"))
        return cls(
            means=arrays["means"],
            covariance=arrays["covariance"],
            known_llms=int(header["known_llms"]),
            level=float(header["level"]),
            level_variance=float(header["level_variance"]),
            sizes=tuple(int(size) for size in header["sizes"]),
        )


def _solve(symmetric: Matrix, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve by Cholesky: LAPACK itself, since SciPy's checks of so small a matrix take ten times as long."""
    _, solved, info = dposv(symmetric, right, lower=1)
    if info:
        raise LinAlgError(f"the covariance of {len(symmetric)} cells with labels is not positive definite")
    found: NDArray[np.float64] = solved
    return found


def fit_pool_prior(cells: IntMatrix, errors: ArrayLike, *, sizes: Sequence[int]) -> PoolPrior:
    """Learn the prior from the known LLMs' errors on training prompts.

    Parameters: ``cells`` (n, R) each prompt's cell in each resolution; ``errors`` (n, S) in [0, 1],
    complete; ``sizes`` the cells of each resolution. S may be 0, 1 or 2: then means and covariance are
    flat and only the level is learned. The smoothed cell rates T = (wrong + 1)/(n + 2) give m, their mean
    over LLMs, and, for each resolution by itself::

        Sigma = (1 + 6/S) (S/(S-1)) LedoitWolf(columns of T - m, centred)
    """
    cells_ = np.asarray(cells)
    if cells_.ndim != 2 or cells_.shape[1] != len(sizes):  # noqa: PLR2004 - a matrix
        raise InvalidInputError("cells", f"shape {cells_.shape} for a map of {len(sizes)} resolutions")
    n_prompts, n_llms = len(cells_), np.shape(errors)[-1]
    errors_ = as_errors("errors", errors, shape=(n_prompts, n_llms))
    level = fit_level_prior(errors_)
    means, blocks = np.full(sum(sizes), 0.5), []
    flat = n_llms < _FEWEST_FOR_COVARIANCE or n_prompts == 0
    for resolution, cells_of in enumerate(slice_resolutions(sizes)):
        size = sizes[resolution]
        if flat:
            blocks.append(0.06 + 0.04 * np.eye(size))
        else:
            means[cells_of], block = _fit_resolution(cells_[:, resolution] - cells_of.start, errors_, size)
            blocks.append(block)
    return PoolPrior(
        means=means,
        covariance=block_diag(*blocks),
        known_llms=n_llms if n_prompts else 0,
        level=level.mean,
        level_variance=level.variance,
        sizes=tuple(int(size) for size in sizes),
    )


def _column(errors: Matrix, labels: Matrix, llm: int) -> tuple[Vector, Vector]:
    """One LLM's counts, laid out alike whatever stands beside them, so that sums round alike."""
    return np.ascontiguousarray(errors[:, llm]), np.ascontiguousarray(labels[:, llm])


def _fit_resolution(cells: IntMatrix, errors: Matrix, size: int) -> tuple[Vector, Matrix]:
    """Learn mean and covariance of the cell error rates of one resolution from at least two LLMs."""
    from sklearn.covariance import LedoitWolf

    n_llms = errors.shape[1]
    wrong = np.zeros((size, n_llms))
    np.add.at(wrong, cells, errors)
    rates = (wrong + 1) / (np.bincount(cells, minlength=size)[:, None] + 2)
    means = rates.mean(axis=1)
    fitted = LedoitWolf(assume_centered=True).fit((rates - means[:, None]).T)
    scale = (1 + 6 / n_llms) * n_llms / (n_llms - 1)
    return means, scale * np.asarray(fitted.covariance_, dtype=np.float64)
