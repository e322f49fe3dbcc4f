"""How the routing rule knows what a call to an unseen LLM will cost: its mean, or the prompt's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from routing.clusters import ClusterMap
from routing.costs import LengthModel, count_usage, fit_lengths
from routing.evaluation.curves import Matrix
from routing.evaluation.draws import Trial
from routing.evaluation.outcomes import RecordedOutcomes
from routing.quality.maps import share_map

CostKind = Literal["mean", "prompt"]

#: The map in whose cells lengths are learned: that of the default estimator.
_SIZES, _TEMPERATURE = (5, 10, 20, 40, 80), 16.0
#: What is expected of an answer's tokens, or of a cost in thousandths of its mean, before any was seen.
_PRIOR_TOKENS, _UNITS = 256.0, 1000.0


class CostRule(Protocol):
    """Tells the USD that calls to the unseen LLMs of a trial are expected to cost."""

    def __call__(self, outcomes: RecordedOutcomes, trial: Trial, labelled: NDArray[np.int64]) -> Matrix:
        """Give (U,) or (n_test, U) costs of the test prompts.

        Of the unseen LLMs only what was recorded of the ``labelled`` prompts (rows) may be used.
        """
        ...


def mean_costs(outcomes: RecordedOutcomes, trial: Trial, labelled: NDArray[np.int64]) -> Matrix:
    """Give each LLM's mean cost over the labelled prompts, shape (U,): the same for every prompt."""
    means: Matrix = outcomes.costs[np.ix_(labelled, trial.unseen)].mean(axis=0)
    return means


def prompt_costs(outcomes: RecordedOutcomes, trial: Trial, labelled: NDArray[np.int64]) -> Matrix:
    """Give each test prompt's own expected cost, shape (n_test, U).

    Where token counts and prices are recorded: prompt tokens times price, and expected answer tokens times
    price, from a length model (``fit_lengths``) that learns from the known LLMs' usage on train prompts and
    from the unseen LLMs' on the labelled ones. Where they are not, costs themselves are taken for log-normal
    in the same cells. Each LLM's costs are scaled so that their mean over the labelled prompts is what was
    paid there; an LLM that charged the same for all of them is expected to charge that.
    """
    paid = outcomes.costs[np.ix_(labelled, trial.unseen)]
    mean = paid.mean(axis=0)
    rows = np.concatenate([labelled, outcomes.test])
    expected = _cost_of_tokens(outcomes, trial, labelled, rows)
    if expected is None:
        expected = _cost_of_costs(outcomes, trial, labelled, rows, np.where(mean > 0, mean, 1.0))
    seen = expected[: len(labelled)].mean(axis=0)
    scaled = expected[len(labelled) :] * np.where(seen > 0, mean / np.where(seen > 0, seen, 1.0), 1.0)
    same = np.ptp(paid, axis=0) <= 1e-12 * mean
    return np.where(same, mean, scaled)


COST_RULES: Mapping[CostKind, CostRule] = {"mean": mean_costs, "prompt": prompt_costs}


@dataclass(frozen=True, slots=True)
class _Replies:
    """Replies to learn from: rows and columns of the outcomes, and the LLM's place in the model."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, rows: NDArray[np.int64], columns: NDArray[np.int64], *, first: int) -> "_Replies":
        """Give every pair of these rows and columns, the places counted from ``first``."""
        return cls(
            np.repeat(rows, len(columns)),
            np.tile(columns, len(rows)),
            np.tile(np.arange(first, first + len(columns)), len(rows)),
        )

    def __add__(self, other: "_Replies") -> "_Replies":
        return _Replies(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.columns, other.columns]),
            np.concatenate([self.places, other.places]),
        )


def _cost_of_tokens(
    outcomes: RecordedOutcomes, trial: Trial, labelled: NDArray[np.int64], rows: NDArray[np.int64]
) -> Matrix | None:
    """Give the costs of ``rows`` by tokens and prices, or ``None`` where those are not recorded."""
    usage = outcomes.usage
    if usage is None:
        return None
    replies = _Replies.of(labelled, trial.unseen, first=0)
    replies += _Replies.of(outcomes.train, trial.known, first=len(trial.unseen))
    n_llms = len(trial.unseen) + len(trial.known)
    input_tokens = usage.input_tokens.mean(axis=1)
    model = _fit(
        outcomes, replies, input_tokens, usage.output_tokens[replies.rows, replies.columns], n_llms=n_llms
    )
    output = _expected(outcomes, model, rows, input_tokens)[:, : len(trial.unseen)]
    per_input, per_output = usage.prices[:, trial.unseen]
    costs: Matrix = usage.input_tokens[np.ix_(rows, trial.unseen)] * per_input + output * per_output
    return costs


def _cost_of_costs(
    outcomes: RecordedOutcomes,
    trial: Trial,
    labelled: NDArray[np.int64],
    rows: NDArray[np.int64],
    unit: Matrix,
) -> Matrix:
    """Give the costs of ``rows`` as a log-normal of the costs themselves, in units of each LLM's mean."""
    replies = _Replies.of(labelled, trial.unseen, first=0)
    relative = _UNITS * outcomes.costs[replies.rows, replies.columns] / unit[replies.places]
    nothing = np.zeros(len(outcomes.costs))
    model = _fit(outcomes, replies, nothing, relative, n_llms=len(trial.unseen))
    return _expected(outcomes, model, rows, nothing) / _UNITS * unit


def _map_of(outcomes: RecordedOutcomes) -> ClusterMap:
    X = np.ascontiguousarray(outcomes.embeddings[outcomes.train], dtype=np.float32)
    sizes = tuple(sorted({min(size, len(X)) for size in _SIZES}))
    return share_map(X, sizes=sizes, temperature=_TEMPERATURE, seed=0)


def _fit(
    outcomes: RecordedOutcomes, replies: _Replies, input_tokens: Matrix, output: Matrix, *, n_llms: int
) -> LengthModel:
    cluster_map = _map_of(outcomes)
    cells = cluster_map.cells(outcomes.embeddings[np.unique(replies.rows)])
    usage = count_usage(
        cells[np.searchsorted(np.unique(replies.rows), replies.rows)],
        replies.places,
        input_tokens[replies.rows],
        output,
        n_cells=sum(cluster_map.sizes),
        n_llms=n_llms,
    )
    return fit_lengths(usage, prior_tokens=np.full(n_llms, _PRIOR_TOKENS), sizes=cluster_map.sizes)


def _expected(
    outcomes: RecordedOutcomes, model: LengthModel, rows: NDArray[np.int64], input_tokens: Matrix
) -> Matrix:
    weights = _map_of(outcomes).weights(outcomes.embeddings[rows])
    return model.expected_tokens(weights, input_tokens[rows])
