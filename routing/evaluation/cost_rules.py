"""How the routing rule knows what a call to an unseen LLM will cost: its mean, or the prompt's own."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from routing.costs import LengthModel, Usage, count_usage, fit_lengths
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
class _Known:
    """What no trial changes, worked out once for an evaluation."""

    sizes: tuple[int, ...]
    #: Of every prompt, (n, R) and (n, C).
    cells: NDArray[np.int32]
    weights: NDArray[np.float32]
    #: Of every LLM on the train prompts, (C, H); ``None`` where tokens are not recorded.
    usage: Usage | None


#: Remembered as long as the outcomes are in use. It changes the time a call takes, never its result.
_known: WeakKeyDictionary[RecordedOutcomes, _Known] = WeakKeyDictionary()


def _know(outcomes: RecordedOutcomes) -> _Known:
    found = _known.get(outcomes)
    if found is not None:
        return found
    X = np.ascontiguousarray(outcomes.embeddings[outcomes.train], dtype=np.float32)
    sizes = tuple(sorted({min(size, len(X)) for size in _SIZES}))
    cluster_map = share_map(X, sizes=sizes, temperature=_TEMPERATURE, seed=0)
    placement = cluster_map.place(np.ascontiguousarray(outcomes.embeddings, dtype=np.float32))
    usage = None
    if outcomes.usage is not None:
        every = np.arange(len(outcomes.llms))
        tokens = outcomes.usage.output_tokens[np.ix_(outcomes.train, every)]
        inputs = outcomes.usage.input_tokens.mean(axis=1)
        usage = _count(cluster_map.sizes, placement.cells, outcomes.train, inputs, tokens)
    found = _Known(cluster_map.sizes, placement.cells, placement.weights, usage)
    _known[outcomes] = found
    return found


def _count(
    sizes: tuple[int, ...],
    cells: NDArray[np.int32],
    rows: NDArray[np.int64],
    input_tokens: Matrix,
    output: Matrix,
) -> Usage:
    """Sum up the replies of K LLMs to these prompts: ``input_tokens`` (n,) of all, ``output`` (m, K)."""
    n_llms = output.shape[1]
    return count_usage(
        np.repeat(cells[rows], n_llms, axis=0),
        np.tile(np.arange(n_llms), len(rows)),
        np.repeat(input_tokens[rows], n_llms),
        output.ravel(),
        n_cells=sum(sizes),
        n_llms=n_llms,
    )


def _cost_of_tokens(
    outcomes: RecordedOutcomes, trial: Trial, labelled: NDArray[np.int64], rows: NDArray[np.int64]
) -> Matrix | None:
    """Give the costs of ``rows`` by tokens and prices, or ``None`` where those are not recorded."""
    usage, known = outcomes.usage, _know(outcomes)
    if usage is None or known.usage is None:
        return None
    input_tokens = usage.input_tokens.mean(axis=1)
    seen = _count(
        known.sizes, known.cells, labelled, input_tokens, usage.output_tokens[np.ix_(labelled, trial.unseen)]
    )
    both = Usage(
        *(
            np.hstack([getattr(seen, field.name), getattr(known.usage, field.name)[:, trial.known]])
            for field in fields(Usage)
        )
    )
    model = _fit(both, known.sizes)
    output = model.expected_tokens(known.weights[rows], input_tokens[rows])[:, : len(trial.unseen)]
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
    known = _know(outcomes)
    relative = _UNITS * outcomes.costs[np.ix_(labelled, trial.unseen)] / unit
    nothing = np.zeros(len(outcomes.costs))
    model = _fit(_count(known.sizes, known.cells, labelled, nothing, relative), known.sizes)
    return model.expected_tokens(known.weights[rows], nothing[rows]) / _UNITS * unit


def _fit(usage: Usage, sizes: tuple[int, ...]) -> LengthModel:
    return fit_lengths(usage, prior_tokens=np.full(usage.replies.shape[1], _PRIOR_TOKENS), sizes=sizes)
