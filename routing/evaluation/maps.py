"""Two cluster maps compared by replay: which predicts feedback that it has not seen better."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.clusters import PARTS, Placement, PromptMap, split_observation
from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError
from routing.evaluation.bootstrap import Interval, paired_interval
from routing.quality.counts import ErrorCounts, Vector, count_errors
from routing.quality.pool_prior import PoolPrior

#: A prediction is held so far from 0 and 1, where one surprise would say everything.
_EDGE = 0.01
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredPrompts:
    """m pieces of feedback on n prompts and H LLMs."""

    #: (n, d): unit rows, in an order that says nothing of the prompts.
    embeddings: FloatMatrix
    #: (m,): rows of ``embeddings``, columns of the LLMs, and errors in [0, 1].
    rows: NDArray[np.int64]
    llms: NDArray[np.int64]
    errors: Vector
    n_llms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MapComparison:
    """Log loss per prompt of the old map and of the new one, held out, and the new less the old."""

    prompts: int
    pieces: int
    old_loss: float
    new_loss: float
    difference: float
    #: Of ``difference``, 95 %, over prompts.
    interval: Interval

    @property
    def better(self) -> bool:
        """Whether the new map predicts better, beyond chance."""
        return self.interval[1] < 0


def compare_maps(
    old: tuple[PromptMap, PoolPrior], new: tuple[PromptMap, PoolPrior], scored: ScoredPrompts
) -> MapComparison:
    """Predict each prompt's feedback by the feedback of the four fifths of the prompts it is not among.

    Both maps learn from the same pieces, as the learner does, and predict as routers do.
    ``InvalidInputError`` for fewer than two prompts with feedback.
    """
    prompts, places = np.unique(scored.rows, return_inverse=True)
    if len(prompts) < 2:  # noqa: PLR2004 - an interval
        raise InvalidInputError("rows", "feedback on two prompts is needed")
    losses = [_losses(*fitted, scored) for fitted in (old, new)]
    sizes = np.bincount(places)
    means = [np.bincount(places, weights=one) / sizes for one in losses]
    gaps = means[1] - means[0]
    return MapComparison(
        prompts=len(prompts),
        pieces=len(scored.rows),
        old_loss=float(means[0].mean()),
        new_loss=float(means[1].mean()),
        difference=float(gaps.mean()),
        interval=paired_interval(gaps),
    )


def _losses(fitted: PromptMap, prior: PoolPrior, scored: ScoredPrompts) -> Vector:
    """Give the held-out log loss of each piece, (m,)."""
    placement = fitted.place(scored.embeddings)
    weights = placement.weights.astype(np.float64)
    cells, shares = split_all(placement, fitted.sizes)
    found = np.empty(len(scored.rows))
    for fold in range(_FOLDS):
        held = scored.rows % _FOLDS == fold
        counts = _count(cells, shares, fitted.sizes, scored, ~held)
        rates = prior.error_rates(counts.errors, counts.labels)
        of = (weights[scored.rows[held]] * rates[:, scored.llms[held]].T).sum(axis=1)
        p, e = np.clip(of, _EDGE, 1 - _EDGE), scored.errors[held]
        found[held] = -(e * np.log(p) + (1 - e) * np.log(1 - p))
    return found


def _count(
    cells: NDArray[np.int64],
    shares: Vector,
    sizes: tuple[int, ...],
    scored: ScoredPrompts,
    kept: NDArray[np.bool_],
) -> ErrorCounts:
    rows = scored.rows[kept]
    return count_errors(
        cells[rows],
        scored.llms[kept],
        scored.errors[kept],
        shares[rows],
        n_cells=sum(sizes),
        n_llms=scored.n_llms,
    )


def split_all(placement: Placement, sizes: tuple[int, ...]) -> tuple[NDArray[np.int64], Vector]:
    """Give the cells over which each prompt's observations are split, and the share of each: (n, P) both.

    Rows are filled up with shares of 0.
    """
    split = [
        split_observation(weights, cells, sizes) or tuple((int(cell), PARTS) for cell in cells)
        for weights, cells in zip(placement.weights, placement.cells, strict=True)
    ]
    cells = np.zeros((len(split), max((len(shares) for shares in split), default=0)), dtype=np.int64)
    parts = np.zeros(cells.shape)
    for row, shares in enumerate(split):
        cells[row, : len(shares)], parts[row, : len(shares)] = np.array(shares).T
    return cells, parts / PARTS
