"""Scenario ``onboarding``: how few labels a new LLM needs if they stop as soon as the routes are settled."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from routing.evaluation import Trial
from routing.learning import (
    StoppingRule,
    deal_probes,
    expected_losses,
    label_until_settled,
    spread_lambdas,
)
from routing.quality.pool_prior import PoolPrior
from routing.quality.uniroute import mean_errors
from workers.learner import watched_resolution
from workers.scenarios.findings import ScenarioFindings, mean_of, share_of
from workers.scenarios.stage import Matrix, Rows, Run, Stage, Vector

#: Uniform labels with which raw UniRoute sets the mark.
MARK_LABELS = 400
#: Labels per LLM promised to suffice, by set; another set has no such promise.
PROMISED_LABELS: Mapping[str, int] = MappingProxyType({"mmlupro28": 60, "llmrouter9": 150})
#: Prompts that stand for the traffic when the rule asks what a label is worth.
_ASKED_ON = 1_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Onboarded:
    """What was learned of U new LLMs, and with how many labels each."""

    #: (C, U).
    rates: Matrix
    #: (U,).
    costs: Vector
    labels: Rows
    #: (U,): whether the rule stopped before its most.
    stopped: Rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Outcome:
    raw: float
    sequential: float
    even: float
    labels: Rows
    stopped: Rows


def simulate_onboarding(
    stage: Stage,
    *,
    trials: int = 40,
    seed: int = 0,
    rule: StoppingRule | None = None,
    run: Run[_Outcome] = map,
) -> ScenarioFindings:
    """Onboard each trial's unseen LLMs side by side and route the test prompts among them."""
    rule = rule or StoppingRule()
    drawn = stage.draw(trials, seed)
    found = list(run(partial(_try, stage=stage, drawn=drawn, rule=rule, seed=seed), range(trials)))
    labels = np.concatenate([one.labels for one in found])
    stopped = np.concatenate([one.stopped for one in found])
    gains = [one.sequential - one.raw for one in found]
    mark = min(MARK_LABELS, len(stage.val))
    most = PROMISED_LABELS.get(stage.dataset)
    return ScenarioFindings(
        scenario="onboarding",
        dataset=stage.dataset,
        trials=trials,
        seed=seed,
        protocol=(
            f"Unseen third of the LLMs; probes dealt over clusters; label value {rule.label_value:g}, from "
            f"{rule.fewest} to {rule.most} labels, {rule.batch} or more at once. Area as in `evaluate`."
        ),
        measures=(
            mean_of(f"Area of raw UniRoute, {mark} labels each", [one.raw for one in found]),
            mean_of("Area of sequential onboarding", [one.sequential for one in found]),
            mean_of("sequential minus raw", gains, promise=">= 0", kept=float(np.mean(gains)) >= 0),
            mean_of(
                "sequential minus as many labels dealt evenly", [one.sequential - one.even for one in found]
            ),
            mean_of(
                "labels per LLM",
                [float(one.labels.mean()) for one in found],
                unit="count",
                promise=None if most is None else f"<= {most}",
                kept=None if most is None else float(np.mean([one.labels.mean() for one in found])) <= most,
            ),
            mean_of("labels of the LLM with most", [float(one.labels.max()) for one in found], unit="count"),
            share_of("LLMs that stopped early", int(stopped.sum()), len(stopped)),
            share_of("LLMs that stopped at the fewest", int((labels <= rule.fewest).sum()), len(labels)),
        ),
    )


def _try(number: int, *, stage: Stage, drawn: list[Trial], rule: StoppingRule, seed: int) -> _Outcome:
    trial = drawn[number]
    prior = stage.fit_prior(trial.known)
    watched = watched_resolution(stage.sizes)
    cells = stage.cells[:, len(stage.sizes) // 2] - watched.start
    order = deal_probes(
        cells[stage.val],
        rng=np.random.default_rng([seed, number, 1]),
        masses=np.bincount(cells[stage.train], minlength=watched.stop - watched.start),
    )
    probes = stage.val[order]
    done = onboard(stage, prior, trial.unseen, probes, rule)
    even = probes[: max(1, round(float(done.labels.mean())))]
    counts = stage.count(even, stage.errors[np.ix_(even, trial.unseen)])
    return _Outcome(
        raw=_raw_area(stage, trial),
        sequential=stage.area(trial, stage.predict(stage.test, done.rates), done.costs),
        even=stage.area(
            trial,
            stage.predict(stage.test, prior.error_rates(counts.errors, counts.labels)),
            stage.costs[np.ix_(even, trial.unseen)].mean(axis=0),
        ),
        labels=done.labels,
        stopped=done.stopped,
    )


def onboard(stage: Stage, prior: PoolPrior, llms: Rows, probes: Rows, rule: StoppingRule) -> Onboarded:
    """Label each LLM of ``llms`` (U,) on the first ``probes``, batch by batch, until the rule stops it."""
    asked = stage.val[:: max(1, len(stage.val) // _ASKED_ON)]
    labels = np.zeros(len(llms), dtype=np.int64)
    rates, deviations = np.zeros((2, sum(stage.sizes), len(llms)))
    costs = np.zeros(len(llms))

    def label(column: int, count: int) -> int | None:
        rows, llm = probes[: labels[column] + count], llms[[column]]
        gained = len(rows) - int(labels[column])
        if not gained:
            return None
        labels[column] = len(rows)
        counts = stage.count(rows, stage.errors[np.ix_(rows, llm)])
        rates[:, [column]] = prior.error_rates(counts.errors, counts.labels)
        deviations[:, [column]] = prior.deviations(counts.errors, counts.labels)
        costs[column] = stage.costs[rows, llm].mean()
        return gained

    def weigh() -> Vector:
        errors = stage.predict(asked, rates)
        spreads = stage.predict(asked, deviations)
        return expected_losses(errors, spreads, costs, spread_lambdas(errors, costs))

    _, settled = label_until_settled(rule, labels, weigh=weigh, ask=label)
    return Onboarded(rates=rates, costs=costs, labels=labels, stopped=settled.astype(np.int64))


def _raw_area(stage: Stage, trial: Trial) -> float:
    """Raw UniRoute: mean errors per cell of one hard map."""
    rows = stage.val[trial.label_order[:MARK_LABELS]]
    errors = stage.errors[np.ix_(rows, trial.unseen)]
    n_cells = int(stage.raw_cells.max()) + 1
    wrong, n = np.zeros((n_cells, len(trial.unseen))), np.zeros((n_cells, len(trial.unseen)))
    np.add.at(wrong, stage.raw_cells[rows], errors)
    np.add.at(n, stage.raw_cells[rows], 1.0)
    rates = mean_errors(wrong, n, unlabelled=0.5)
    costs = stage.costs[np.ix_(rows, trial.unseen)].mean(axis=0)
    return stage.area(trial, rates[stage.raw_cells[stage.test]], costs)
