"""The stage of every scenario: recorded outcomes placed in a map, ready to be counted and routed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from routing.clusters import Placement, fit_cluster_map
from routing.clusters.kmeans import DEFAULT_SIZES, DEFAULT_TEMPERATURE
from routing.embedders import Fingerprint, FloatMatrix
from routing.evaluation import Pool, Trial, draw_trials, follow_path, trace_path
from routing.evaluation.bench import LAMBDA_GRID
from routing.evaluation.maps import split_all
from routing.evaluation.metrics import area
from routing.quality.counts import ErrorCounts, count_errors
from routing.quality.pool_prior import PoolPrior, fit_pool_prior
from routing.snapshot import RATE_BITS
from workers.errors import UsageError
from workers.outcomes import OutcomeSet

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Rows = NDArray[np.int64]
#: Texts to unit rows, float32 (n, d), and what embedded them.
Embed = Callable[[Sequence[str]], tuple[FloatMatrix, Fingerprint]]
Result = TypeVar("Result")
#: Runs a function on each trial's number, in order; ``map``, or a stand-in that reports or runs in parallel.
Run = Callable[[Callable[[int], Result], Sequence[int]], Iterable[Result]]

#: Raw UniRoute's clusters, in which the mark of onboarding is measured.
RAW_CLUSTERS = 20
_FEWEST_LLMS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """n prompts that each of H LLMs has a score for."""

    dataset: str
    llms: tuple[str, ...]
    #: (n, H): 1 - score.
    errors: Matrix
    #: (n, H).
    costs: Matrix
    #: Rows of each split, in file order.
    train: Rows
    val: Rows
    test: Rows
    #: Cells of each resolution of the map that serves.
    sizes: tuple[int, ...]
    #: (n, C) and (n, R).
    weights: NDArray[np.float32]
    cells: NDArray[np.int32]
    #: (n,): cells of the raw map.
    raw_cells: NDArray[np.int32]

    @cached_property
    def mean_weights(self) -> Vector:
        """(C,): mean weights of the val prompts."""
        means: Vector = self.weights[self.val].astype(np.float64).mean(axis=0)
        return means

    def draw(self, trials: int, seed: int) -> list[Trial]:
        """Draw pools of unseen LLMs and orders of labels, as ``uniroute evaluate`` does."""
        return draw_trials(len(self.llms), len(self.val), trials=trials, seed=seed)

    def fit_prior(self, known: Rows) -> PoolPrior:
        """Learn the prior from the known LLMs' errors on train prompts."""
        return fit_pool_prior(
            self.cells[self.train], self.errors[np.ix_(self.train, known)], sizes=self.sizes
        )

    def count(self, rows: Rows, errors: Matrix) -> ErrorCounts:
        """Count ``errors`` (m, U) of U LLMs on the prompts ``rows`` (m,)."""
        n_llms = errors.shape[1]
        return count_errors(
            np.repeat(self.cells[rows], n_llms, axis=0),
            np.tile(np.arange(n_llms), len(rows)),
            errors.ravel(),
            n_cells=sum(self.sizes),
            n_llms=n_llms,
        )

    @cached_property
    def _split(self) -> tuple[Rows, Matrix]:
        """(n, P) each: the cells that feedback on a prompt is split over, and the share of each."""
        return split_all(Placement(self.weights, self.cells), self.sizes)

    def count_feedback(self, rows: Rows, llms: Rows, errors: Vector, *, n_llms: int) -> ErrorCounts:
        """Count feedback (m,) as the learner does, split over the cells of its prompts."""
        cells, shares = self._split
        return count_errors(cells[rows], llms, errors, shares[rows], n_cells=sum(self.sizes), n_llms=n_llms)

    def predict(self, rows: Rows, rates: Matrix) -> Matrix:
        """Predict errors (m, U) from rates (C, U), rounded as a snapshot's are."""
        rounded = np.rint(rates * 2.0**RATE_BITS) * 2.0**-RATE_BITS
        predicted: Matrix = self.weights[rows].astype(np.float64) @ rounded
        return predicted

    def area(self, trial: Trial, predicted: Matrix, costs: Vector) -> float:
        """Give the Area of routing the test prompts among the trial's unseen LLMs."""
        recorded = np.ix_(self.test, trial.unseen)
        scores, paid = 1.0 - self.errors[recorded], self.costs[recorded]
        mean = float(costs.mean())
        lambdas = LAMBDA_GRID / mean if mean > 0 else None
        curve = follow_path(trace_path(predicted, costs), scores, paid, lambdas=lambdas)
        return area(curve, *Pool.of(scores, paid).cost_range)


def set_stage(recorded: OutcomeSet, *, embed: Embed, seed: int = 0) -> Stage:
    """Embed the prompts of a folder and fit its maps on the train split.

    ``UsageError`` where the folder has fewer than 4 LLMs, or a split has no prompt with a score of each.
    """
    kept = np.flatnonzero(recorded.complete)
    splits = {split: np.flatnonzero(recorded.splits[kept] == split) for split in ("train", "val", "test")}
    for split, rows in splits.items():
        if not len(rows):
            raise UsageError(f"{recorded.name}: no {split} prompt has a score of every LLM")
    if len(recorded.llms) < _FEWEST_LLMS:
        raise UsageError(f"{recorded.name}: a simulation needs {_FEWEST_LLMS} LLMs, not {len(recorded.llms)}")
    embeddings, fingerprint = embed(recorded.texts)
    X = np.ascontiguousarray(embeddings[kept], dtype=np.float32)
    with threadpool_limits(1):  # k-means multiplies small matrices: more threads wait more than they work
        fitted = fit_cluster_map(
            X[splits["train"]],
            sizes=DEFAULT_SIZES,
            temperature=DEFAULT_TEMPERATURE,
            fingerprint=fingerprint,
            seed=seed,
        )
        raw = fit_cluster_map(
            X[splits["train"]], sizes=(RAW_CLUSTERS,), temperature=np.inf, fingerprint=fingerprint, seed=seed
        )
    placement = fitted.place(X)
    return Stage(
        dataset=recorded.name,
        llms=recorded.llms,
        errors=1.0 - recorded.scores[kept],
        costs=recorded.costs_usd[kept],
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        sizes=fitted.sizes,
        weights=placement.weights,
        cells=placement.cells,
        raw_cells=raw.cells(X)[:, 0],
    )
