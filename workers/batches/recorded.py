"""Rehearses batches over recorded outcomes: what each budget buys, beside routing at one lambda."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.assignment import Lines, Supplies, assign_greedily
from routing.costs import Usage, count_usage, fit_lengths
from routing.decisions import Decisions, decide_placed
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InfeasibleError
from routing.policies import Lagrangian
from routing.snapshot import Snapshot
from workers.batches.rehearsal import Answered, Rehearsed, rehearse
from workers.batches.requests import ENDPOINT, Options
from workers.prompts import count_tokens
from workers.router import RoutingView
from workers.settings import Settings
from workers.simulation.recorded import MOST_LABELS, Recorded, Rows

#: Answers of a learner's one look.
_LOOK_REPLIES = 64
#: A learner publishes lengths when an LLM has gained a fifth and ten.
_GROWTH, _LEAST_NEWS = 1.2, 10.0
_LAMBDAS = np.concatenate([[0.0], np.geomspace(1e-2, 1e6, 300)])

_REQUESTS = "requests.jsonl"

CONVENTIONS = {
    "protocol": "map and prior of error rates from train; error rates from at most 400 val labels per LLM; "
    "lengths of answers are not known at first, and learned from the batch's own answers as a learner does; "
    "lines in a seeded random order",
    "budget_usd": "a share of what the best single LLM cost for the same lines, as recorded",
    "predicted_usd": "of the first plan, before any answer",
    "lambda_quality": "of routing every line at one lambda, at the same spending, interpolated: from what "
    "was known at first",
    "lambda_quality_learned": "the same, from the lengths that were known in the end",
    "greedy_quality": "Routoo's selector under the same budget of expected USD; lines left out score 0",
}


class _KnownTexts:
    """Gives embeddings that are known already."""

    def __init__(self, texts: Sequence[str], embeddings: FloatMatrix, fingerprint: Fingerprint) -> None:
        self.fingerprint = fingerprint
        self._rows = {text: row for row, text in enumerate(texts)}
        self._embeddings = embeddings

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give the rows of texts."""
        found: FloatMatrix = self._embeddings[[self._rows[text] for text in texts]]
        return found


class _Learning:
    """Answers lines as recorded, and learns lengths on the way as a learner does."""

    def __init__(self, recorded: Recorded, first: Snapshot, rows: Rows, embedder: _KnownTexts) -> None:
        self.snapshot = first
        self._recorded = recorded
        self._first = first
        self._rows = rows
        self._embedder = embedder
        self._view = self._show()
        self._fresh: list[tuple[int, int, int, int]] = []
        self._usage: Usage | None = None
        self._replies = np.zeros(len(first.names))
        self._versions = 0

    def view(self) -> RoutingView:
        """Give what to decide from as of now."""
        return self._view

    def answer(self, line: int, llm: str) -> Answered:
        """Give what was recorded."""
        row, column = int(self._rows[line]), self._first.column(llm)
        recorded = self._recorded
        found = Answered(
            cost_usd=float(recorded.costs[row, column]),
            input_tokens=round(float(recorded.input_tokens[row])),
            output_tokens=round(float(recorded.output_tokens[row, column])),
        )
        self._fresh.append((row, column, found.input_tokens, found.output_tokens))
        if len(self._fresh) >= _LOOK_REPLIES:
            self._learn()
        return found

    def _learn(self) -> None:
        replies, self._fresh = np.array(self._fresh), []
        sizes = self._recorded.cluster_map.sizes
        usage = count_usage(
            self._recorded.placement.cells[replies[:, 0]],
            replies[:, 1],
            replies[:, 2].astype(np.float64),
            replies[:, 3].astype(np.float64),
            n_cells=sum(sizes),
            n_llms=len(self._first.names),
        )
        self._usage = usage if self._usage is None else self._usage + usage
        counts = self._usage.replies[: sizes[0]].sum(axis=0)
        if not np.any(counts > _GROWTH * self._replies + _LEAST_NEWS):
            return
        self._replies = counts
        self._versions += 1
        self.snapshot = replace(
            self._first,
            lengths=fit_lengths(self._usage, prior_tokens=self._first.output_tokens, sizes=sizes),
            versions=replace(self._first.versions, lengths=str(self._versions)),
        )
        self._view = self._show()

    def _show(self) -> RoutingView:
        return RoutingView(snapshot=self.snapshot, embedder=self._embedder, policies={})


def rehearse_recorded(
    recorded: Recorded,
    texts: Sequence[str],
    embeddings: FloatMatrix,
    rows: Rows,
    *,
    shares: Sequence[float],
    labels: int = MOST_LABELS,
    seed: int = 0,
    settings: Settings,
) -> dict[str, Any]:
    """Rehearse a batch of these prompts for each budget, a share of the best single LLM's cost.

    ``texts`` and ``embeddings`` are those of all prompts of ``recorded``, in its order.
    """
    taught = np.random.default_rng([seed, 5]).permutation(recorded.val)[:labels]
    first = replace(
        recorded.teach(taught), lengths=None, output_tokens=recorded.output_tokens[taught].mean(axis=0)
    )
    stage = _Stage(
        recorded=recorded,
        rows=np.random.default_rng(seed).permutation(rows),
        texts=texts,
        first=first,
        embedder=_KnownTexts(texts, embeddings, recorded.cluster_map.fingerprint),
        settings=settings,
    )
    with tempfile.TemporaryDirectory(prefix="uniroute-rehearsal-") as name:
        _write(Path(name) / _REQUESTS, [texts[row] for row in stage.rows])
        found = [_rehearse_share(stage, share, folder=Path(name)) for share in shares]
    best = stage.best
    return {
        "dataset": recorded.dataset,
        "lines": len(stage.rows),
        "llms": len(recorded.llms),
        "labels": len(taught),
        "seed": seed,
        "best_single": first.names[best],
        "best_single_quality": float(stage.scores[:, best].mean()),
        "best_single_usd": float(stage.costs[:, best].sum()),
        "budgets": found,
        "conventions": CONVENTIONS,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What the rehearsals of all budgets share."""

    recorded: Recorded
    #: In the order of the file.
    rows: Rows
    #: Of all prompts of ``recorded``.
    texts: Sequence[str]
    #: What is known before any answer.
    first: Snapshot
    embedder: _KnownTexts
    settings: Settings

    @property
    def scores(self) -> NDArray[np.float64]:
        return self.recorded.scores[self.rows]

    @property
    def costs(self) -> NDArray[np.float64]:
        return self.recorded.costs[self.rows]

    @property
    def best(self) -> int:
        """The column of the best single LLM."""
        return int(self.scores.mean(axis=0).argmax())

    @property
    def tokens(self) -> NDArray[np.float64]:
        return np.array([count_tokens(self.texts[row]) for row in self.rows])


def _rehearse_share(stage: _Stage, share: float, *, folder: Path) -> dict[str, Any]:
    """Rehearse one budget, and say what routing at one lambda and the greedy get for as much."""
    budget = share * float(stage.costs[:, stage.best].sum())
    learning = _Learning(stage.recorded, stage.first, stage.rows, stage.embedder)
    played = rehearse(
        folder / _REQUESTS,
        Options(budget_usd=budget),
        view=learning.view,
        answer=learning.answer,
        folder=folder / f"{share}",
        settings=stage.settings,
    )
    spent, quality = _settle(played, stage.first.names, stage.scores, stage.costs)
    known = _decide(stage.recorded, stage.rows, stage.tokens, stage.first, 0.0)
    at_first, in_the_end = (
        _quality_at(stage.recorded, stage.rows, stage.tokens, snapshot, spent)
        for snapshot in (stage.first, learning.snapshot)
    )
    return {
        "budget_share": share,
        "budget_usd": budget,
        "spent_usd": spent,
        "predicted_usd": played.plans[0].total_usd,
        "quality": quality,
        "lambda_quality": at_first,
        "lambda_quality_learned": in_the_end,
        "greedy_quality": _greedy(known, stage.scores, budget),
        "completed": played.tally.completed,
        "failed": played.tally.failed,
        "plans": len(played.plans),
    }


def _write(file: Path, texts: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8") as written:
        for number, text in enumerate(texts):
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            line = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body}
            written.write(json.dumps(line) + "\n")


def _decide(
    recorded: Recorded, rows: Rows, tokens: NDArray[np.float64], snapshot: Snapshot, error_per_usd: float
) -> Decisions:
    placement = replace(
        recorded.placement, weights=recorded.placement.weights[rows], cells=recorded.placement.cells[rows]
    )
    policy, rng = Lagrangian(error_per_usd), np.random.default_rng(0)
    return decide_placed(placement, tokens, None, snapshot, policy, rng=rng)


def _settle(
    played: Rehearsed, names: tuple[str, ...], scores: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[float, float]:
    """Give USD spent and mean score; lines without an answer score 0."""
    columns = np.array([names.index(llm) if llm else -1 for llm in played.llms])
    lines = np.flatnonzero(columns >= 0)
    return (
        float(costs[lines, columns[lines]].sum()),
        float(scores[lines, columns[lines]].sum()) / max(1, len(scores)),
    )


def _quality_at(
    recorded: Recorded, rows: Rows, tokens: NDArray[np.float64], snapshot: Snapshot, spent: float
) -> float:
    """Give the realised quality of routing at the lambda that spends so much, in hindsight."""
    known = _decide(recorded, rows, tokens, snapshot, 0.0)
    lines = np.arange(len(rows))
    points = []
    for error_per_usd in _LAMBDAS:
        chosen = (known.errors + error_per_usd * known.costs).argmin(axis=1)
        paid = float(recorded.costs[rows][lines, chosen].sum())
        points.append((paid, float(recorded.scores[rows][lines, chosen].mean())))
    curve = np.array(sorted(points))
    return float(np.interp(spent, curve[:, 0], curve[:, 1]))


def _greedy(known: Decisions, scores: NDArray[np.float64], budget: float) -> float | None:
    try:
        chosen = assign_greedily(
            Lines(errors=known.errors, costs=known.costs), Supplies(budget_usd=budget)
        ).llms
    except InfeasibleError:
        return None
    lines = np.flatnonzero(chosen >= 0)
    return float(scores[lines, chosen[lines]].sum()) / max(1, len(scores))
