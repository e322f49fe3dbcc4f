"""What is known of each LLM: sums of error and of labels per cell of a cluster map."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import InvalidInputError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
IntMatrix = NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorCounts:
    """Sums over labelled prompts, by cell (rows) and LLM (columns); fractional where labels carry weights.

    With a map of several resolutions, every label is counted once in each of them, so each resolution's
    rows sum to the same totals.
    """

    #: Summed error, shape (n_cells, n_llms); each entry lies in [0, the same entry of ``labels``].
    errors: Matrix
    #: Summed weight of the labels, shape (n_cells, n_llms).
    labels: Matrix

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Pool two sets of labels of the same cells and LLMs."""
        return ErrorCounts(errors=self.errors + other.errors, labels=self.labels + other.labels)


def count_errors(
    cells: ArrayLike,
    llms: ArrayLike,
    errors: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_cells: int,
    n_llms: int,
) -> ErrorCounts:
    """Add up labels: row i says that LLM ``llms[i]`` had ``errors[i]`` on a prompt in the cells ``cells[i]``.

    Parameters: ``cells`` (n, R) row numbers, one per resolution; ``llms`` (n,) column numbers;
    ``errors`` (n,) in [0, 1]; ``weights`` (n,) finite and not negative, the trust in each label, 1 when
    omitted, or (n, R), what each of its cells counts of it. No label at all gives zeros. Raises
    ``InvalidInputError`` for a value out of range, NaN included.
    """
    cells_, llms_ = _as_indices("cells", cells, 2, n_cells), _as_indices("llms", llms, 1, n_llms)
    errors_ = as_errors("errors", errors, shape=(len(llms_),))
    weights_ = np.ones(len(llms_)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights_.shape not in (llms_.shape, cells_.shape) or not np.all(
        np.isfinite(weights_) & (weights_ >= 0)
    ):
        raise InvalidInputError("weights", f"one finite number >= 0 per label is needed ({len(llms_)})")
    if len(cells_) != len(llms_):
        raise InvalidInputError("cells", f"{len(cells_)} rows for {len(llms_)} labels")
    flat = (cells_ * n_llms + llms_[:, None]).ravel()
    each = np.broadcast_to(weights_[:, None] if weights_.ndim == 1 else weights_, cells_.shape)

    def total(values: Matrix) -> Matrix:
        sums = np.zeros(n_cells * n_llms)
        sums += np.bincount(flat, weights=values.ravel(), minlength=sums.size)
        return sums.reshape(n_cells, n_llms)

    return ErrorCounts(errors=total(errors_[:, None] * each), labels=total(each))


def as_errors(field: str, values: ArrayLike, *, shape: tuple[int, ...]) -> Matrix:
    """Read errors of ``shape`` as float64; ``InvalidInputError`` unless all lie in [0, 1] (NaN does not)."""
    errors = np.asarray(values, dtype=np.float64)
    if errors.shape != shape:
        raise InvalidInputError(field, f"shape {errors.shape} where {shape} is needed")
    if not np.all((errors >= 0) & (errors <= 1)):
        found = "NaN" if np.isnan(errors).any() else f"{errors.min():g} to {errors.max():g}"
        raise InvalidInputError(field, f"errors lie in [0, 1] and are known; found {found}")
    return errors


def check_counts(errors: ArrayLike, labels: ArrayLike, sizes: Sequence[int]) -> tuple[Matrix, Matrix]:
    """Read a pair of count matrices of one map, shape (sum(sizes), n_llms) each.

    Raises ``InvalidInputError`` for shapes that differ from the map, NaN, a negative count, or more error
    than labels (beyond rounding).
    """
    errors_, labels_ = np.asarray(errors, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if labels_.ndim != 2 or labels_.shape[0] != sum(sizes) or min(sizes, default=0) < 1:  # noqa: PLR2004 - a matrix
        raise InvalidInputError("labels", f"shape {labels_.shape} for a map of {tuple(sizes)} cells")
    if errors_.shape != labels_.shape:
        raise InvalidInputError("errors", f"shape {errors_.shape}, but labels have {labels_.shape}")
    if not np.all(np.isfinite(labels_) & (labels_ >= 0)):
        raise InvalidInputError("labels", "counts are finite and not negative")
    if not np.all((errors_ >= 0) & (errors_ <= labels_ * (1 + 1e-9) + 1e-9)):
        raise InvalidInputError("errors", "a cell's summed error lies between 0 and its labels")
    return errors_, labels_


def slice_resolutions(sizes: Sequence[int]) -> Iterator[slice]:
    """Give the rows of each resolution of a stacked map."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def _as_indices(field: str, values: ArrayLike, ndim: int, limit: int) -> NDArray[np.int64]:
    indices = np.asarray(values)
    if indices.size == 0:
        indices = indices.astype(np.int64)
    if indices.ndim != ndim or not np.issubdtype(indices.dtype, np.integer):
        raise InvalidInputError(field, f"whole numbers in {ndim} dimension(s) are needed")
    if indices.size and not (indices.min() >= 0 and indices.max() < limit):
        raise InvalidInputError(field, f"{indices.min()} to {indices.max()}, but there are {limit}")
    return indices.astype(np.int64, copy=False)
