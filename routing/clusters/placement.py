"""Where prompts lie in a map: soft weights that choose, hard cells that count."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InvalidInputError

#: Weights are whole multiples of 2**-24: exact in float32, and their products with error rates on a grid of
#: 2**-28 are exact in float64, so that no sum of them depends on the order of summation (see ``snapshot``).
WEIGHT_BITS = 24
#: Parts that one observation is split into: a power of two, so that sums of parts are exact in any order.
PARTS = 128
#: Cells of each resolution that may share an observation.
_MOST_SHARING = 3
#: A cell and its parts of one observation.
Share = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """The clusters of ``n`` prompts in a map of ``C`` cells and ``R`` resolutions."""

    #: Shape (n, C), float32, at least 0, each row summing to 1 (within C * 2**-25).
    weights: NDArray[np.float32]
    #: Shape (n, R): in each resolution, the column of the nearest centroid.
    cells: NDArray[np.int32]
    #: Shape (n,), float32: Euclidean distance to the nearest centroid of the finest resolution; ``None`` of a
    #: placement that was logged.
    distances: NDArray[np.float32] | None = None


class PromptMap(Protocol):
    """A map from embeddings to cluster weights: immutable, versioned, bound to one embedder."""

    @property
    def version(self) -> str:
        """Hash of the content, 16 hex digits."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Cells of each resolution; their sum is ``C``."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """The embedder whose vectors the map reads."""
        ...

    def place(self, X: FloatMatrix) -> Placement:
        """Give weights and cells of unit rows ``X``, shape (n, d)."""
        ...

    def weights(self, X: FloatMatrix) -> NDArray[np.float32]:
        """Give the weights of ``place``."""
        ...

    def cells(self, X: FloatMatrix) -> NDArray[np.int32]:
        """Give the cells of ``place``."""
        ...

    def to_bytes(self) -> bytes:
        """Give the map as a file's content."""
        ...


def split_observation(
    weights: NDArray[np.float32], cells: NDArray[np.int32], sizes: Sequence[int]
) -> tuple[Share, ...]:
    """Split one observation of a prompt over cells by their weights: its responsibilities, as in soft EM.

    ``weights`` (C,) and ``cells`` (R,) are the prompt's placement. Each resolution has ``PARTS`` parts: the
    (up to) three heaviest cells get theirs in proportion to their weights, rounded down, and the heaviest
    what is left. Of several resolutions the first counts whole, in its own cell: there sources are held
    against each other, by a test of counts that are independent from cell to cell. A prompt whose weight lies
    wholly in its own cells, as under a hard map, gives ``()``: each of its cells counts it whole.
    """
    held, first = weights.tolist(), 0
    shares: list[Share] = []
    for resolution, size in enumerate(sizes):
        if resolution == 0 and len(sizes) > 1:
            shares.append((int(cells[0]), PARTS))
            first += size
            continue
        heaviest = nlargest(_MOST_SHARING, range(first, first + size), key=held.__getitem__)
        total = sum(held[cell] for cell in heaviest)
        dealt = [int(PARTS * held[cell] / total) for cell in heaviest]
        dealt[0] += PARTS - sum(dealt)
        shares += [(cell, parts) for cell, parts in zip(heaviest, dealt, strict=True) if parts]
        first += size
    return () if [cell for cell, _ in shares] == cells.tolist() else tuple(shares)


def round_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to whole multiples of ``2**-WEIGHT_BITS``, in place."""
    weights *= np.float32(2**WEIGHT_BITS)
    np.rint(weights, out=weights)
    weights *= np.float32(2**-WEIGHT_BITS)
    return weights


def check_embeddings(X: FloatMatrix, dimension: int) -> FloatMatrix:
    """Give ``X`` as float32 rows of length ``dimension``; refuse another shape, NaN and infinity."""
    X = np.asarray(X, dtype=np.float32)
    if X.shape[1:] != (dimension,):
        raise InvalidInputError("embeddings", f"must have shape (n, {dimension}), not {X.shape}")
    if not np.all(np.isfinite(X)):
        raise InvalidInputError("embeddings", "must be finite")
    return X
