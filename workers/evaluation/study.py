"""One comparison of methods on one folder of outcomes, from prompts to numbers."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError
from routing.evaluation import (
    COST_RULES,
    CostKind,
    Evaluation,
    RecordedOutcomes,
    RecordedUsage,
    Trial,
    TrialResult,
    evaluate_methods,
)
from routing.evaluation.bench import CurveKind
from routing.evaluation.protocol import RAW_UNIROUTE
from routing.evaluation.references import REFERENCE_POINTS
from routing.quality.registry import ESTIMATORS
from workers.errors import UsageError
from workers.outcomes import CostSource, OutcomeSet, read_outcomes

#: Rows that are always there; they learn nothing.
REFERENCE_ROWS = (*REFERENCE_POINTS, "oracle")

#: Texts to unit rows, float32 (n, d), and the name of what embedded them.
Embed = Callable[[Sequence[str]], tuple[FloatMatrix, str]]
Work = Callable[[Trial], TrialResult]
#: Runs the work on every trial, in any order.
Run = Callable[[Work, Sequence[Trial]], Iterable[TrialResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What to compare, and how often."""

    folder: Path
    #: Labels per unseen LLM; several are compared side by side.
    labels: tuple[int, ...] = (400,)
    #: Of the methods with one map of one resolution; ``None`` chooses it by routing the known LLMs.
    clusters: int | None = 20
    #: Share of the LLMs that are unseen; .33 is a third.
    unseen: float = 1 / 3
    trials: int = 20
    seed: int = 0
    curve: CurveKind = "grid"
    #: What the rule knows of costs: each LLM's mean, or each prompt's own expectation.
    cost: CostKind = "mean"
    #: Names of ``ESTIMATORS``; raw UniRoute is always among them.
    methods: tuple[str, ...] = tuple(ESTIMATORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a study found, and what it was run on."""

    study: Study
    dataset: str
    llms: tuple[str, ...]
    cost_source: CostSource
    embedder: str
    #: Prompts of each split with a score of every LLM, and those that were left out for lack of one.
    train: int
    val: int
    test: int
    incomplete: int
    #: One for each number of labels.
    evaluations: tuple[Evaluation, ...]


def read_methods(text: str) -> tuple[str, ...]:
    """Read ``all``, or names separated by commas; the rows that are always there may be named."""
    if text.strip() == "all":
        return tuple(ESTIMATORS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = (*ESTIMATORS, *REFERENCE_ROWS)
    for name in names:
        if name not in known:
            raise UsageError(f"--methods: there is no method {name!r}; there are: all, {', '.join(known)}")
    chosen = dict.fromkeys([RAW_UNIROUTE, *(name for name in names if name in ESTIMATORS)])
    return tuple(name for name in ESTIMATORS if name in chosen)


def run_study(study: Study, *, embed: Embed, run: Run = map) -> Findings:
    """Read the folder, embed its prompts, and run the protocol; a bad folder is refused before ``embed``.

    ``UsageError`` if the folder is no outcome folder or does not suffice: too few LLMs, or a split without a
    prompt that every LLM has a score for.
    """
    recorded = read_outcomes(study.folder)
    try:
        embeddings, embedder = embed(recorded.texts)
        outcomes = take_complete(recorded, embeddings)
        evaluations = evaluate_methods(
            outcomes,
            {name: ESTIMATORS[name] for name in study.methods},
            labels=study.labels,
            clusters=study.clusters,
            unseen=study.unseen,
            trials=study.trials,
            seed=study.seed,
            curve=study.curve,
            cost_rule=COST_RULES[study.cost],
            clock=time.perf_counter,
            run=run,
        )
    except InvalidInputError as error:
        raise UsageError(f"{study.folder} cannot be evaluated: {error}") from error
    return Findings(
        study=study,
        dataset=recorded.name,
        llms=recorded.llms,
        cost_source=recorded.cost_source,
        embedder=embedder,
        train=len(outcomes.train),
        val=len(outcomes.val),
        test=len(outcomes.test),
        incomplete=int((~recorded.complete).sum()),
        evaluations=evaluations,
    )


def take_complete(recorded: OutcomeSet, embeddings: FloatMatrix) -> RecordedOutcomes:
    """Keep the prompts that every LLM has a score for, in file order."""
    kept = np.flatnonzero(recorded.complete)
    train, val, test = (np.flatnonzero(recorded.splits[kept] == split) for split in ("train", "val", "test"))
    return RecordedOutcomes(
        llms=recorded.llms,
        embeddings=embeddings[kept],
        scores=recorded.scores[kept],
        costs=recorded.costs_usd[kept],
        train=train,
        val=val,
        test=test,
        usage=_take_usage(recorded, kept),
    )


def _take_usage(recorded: OutcomeSet, kept: NDArray[np.int64]) -> RecordedUsage | None:
    """Give tokens and prices of the kept prompts, or ``None`` where any is not recorded."""
    input_tokens, output_tokens = recorded.input_tokens[kept], recorded.output_tokens[kept]
    if not recorded.prices or np.isnan(input_tokens).any() or np.isnan(output_tokens).any():
        return None
    prices = [recorded.prices[llm] for llm in recorded.llms]
    per_token = [[one.input_usd_per_mtok for one in prices], [one.output_usd_per_mtok for one in prices]]
    return RecordedUsage(
        input_tokens=input_tokens, output_tokens=output_tokens, prices=np.array(per_token) / 1e6
    )
