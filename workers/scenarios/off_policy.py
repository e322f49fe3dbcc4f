"""Scenario ``ope``: whether intervals of policies that were not followed cover what these are worth."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from routing.errors import MissingSupportError
from routing.evaluation import Trial
from routing.evaluation.off_policy import LoggedDecisions, OffPolicyValue, estimate_value
from routing.learning import spread_lambdas
from routing.policies import Candidates, Exploration, Lagrangian, Policy, Weighted, probabilities_of
from workers.scenarios.findings import Measure, ScenarioFindings, mean_of, share_of
from workers.scenarios.stage import Run, Stage

#: Labels of each LLM, from which its errors are predicted; decisions logged per trial.
LABELS, DECISIONS = 100, 2_000
#: Exploration while logging, among all LLMs.
SHARE = 0.2
#: Coverage of a 95 % interval that is taken for one.
_COVERS = (0.90, 0.98)
_NAMES = ("least error", "thrifty", "even shares")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    #: By policy.
    truths: tuple[float, ...]
    values: tuple[OffPolicyValue, ...]
    #: Of the estimates asked of a log without chance, for policies that differ from the one that logged.
    refused: int
    asked: int


def simulate_off_policy(
    stage: Stage, *, trials: int = 200, seed: int = 0, run: Run[_Outcome] = map
) -> ScenarioFindings:
    """Log decisions of one policy, then estimate three others whose worth is on record."""
    drawn = stage.draw(trials, seed)
    found = list(run(partial(_try, stage=stage, drawn=drawn, seed=seed), range(trials)))
    measures: list[Measure] = []
    for row, name in enumerate(_NAMES):
        for estimator in ("dr", "snips", "ips"):
            hits = sum(
                low <= one.truths[row] <= high
                for one in found
                for low, high in [getattr(one.values[row], estimator).interval]
            )
            promised = estimator == "dr"
            measures.append(
                share_of(
                    f"{name}: {estimator.upper()} covers",
                    hits,
                    trials,
                    promise="90..98 %" if promised else None,
                    kept=_COVERS[0] <= hits / trials <= _COVERS[1] if promised else None,
                )
            )
        measures += [
            mean_of(f"{name}: DR minus truth", [one.values[row].dr.value - one.truths[row] for one in found]),
            mean_of(f"{name}: DR half-width", [_half(one.values[row]) for one in found]),
            mean_of(
                f"{name}: effective sample size",
                [one.values[row].effective_size for one in found],
                unit="count",
            ),
        ]
    refused, asked = sum(one.refused for one in found), sum(one.asked for one in found)
    measures.append(
        share_of("deterministic logs refused", refused, asked, promise="all", kept=refused == asked)
    )
    return ScenarioFindings(
        scenario="ope",
        dataset=stage.dataset,
        trials=trials,
        seed=seed,
        protocol=(
            f"Unseen third of the LLMs, {LABELS} labels each; {DECISIONS} prompts drawn from test with "
            f"replacement, logged with {SHARE:.0%} exploration; the truth is the mean over the test prompts."
        ),
        measures=tuple(measures),
    )


def _half(value: OffPolicyValue) -> float:
    low, high = value.dr.interval
    return (high - low) / 2


def _try(number: int, *, stage: Stage, drawn: list[Trial], seed: int) -> _Outcome:
    trial, rng = drawn[number], np.random.default_rng([seed, number, 4])
    candidates = _candidates(stage, trial)
    scores = 1.0 - stage.errors[np.ix_(stage.test, trial.unseen)]
    lambdas = spread_lambdas(candidates.errors, candidates.costs[0])
    logger = Exploration(policy=Lagrangian(float(lambdas[4])), share=SHARE, band=np.inf)
    targets = _targets(candidates, float(lambdas[2]))
    rows = rng.integers(len(stage.test), size=DECISIONS)
    log = _log(logger, candidates.rows(rows), scores[rows], rng)
    sure = _log(logger.policy, candidates.rows(rows), scores[rows], rng)
    odds = [probabilities_of(target, candidates) for target in targets]
    predicted = 1.0 - candidates.errors
    refused, asked = 0, 0
    for target in odds:
        asked += bool((np.abs(target[rows] - sure.probabilities) > 0).any())
        try:
            estimate_value(sure, target[rows], predicted[rows])
        except MissingSupportError:
            refused += 1
    return _Outcome(
        truths=tuple(float((target * scores).sum(axis=1).mean()) for target in odds),
        values=tuple(estimate_value(log, target[rows], predicted[rows]) for target in odds),
        refused=refused,
        asked=asked,
    )


def _candidates(stage: Stage, trial: Trial) -> Candidates:
    """What a policy sees of the test prompts once each unseen LLM has its labels."""
    labelled = stage.val[trial.label_order[:LABELS]]
    counts = stage.count(labelled, stage.errors[np.ix_(labelled, trial.unseen)])
    rates = stage.fit_prior(trial.known).error_rates(counts.errors, counts.labels)
    errors = np.clip(stage.predict(stage.test, rates), 0.0, 1.0)
    costs = stage.costs[np.ix_(labelled, trial.unseen)].mean(axis=0)
    return Candidates(
        errors=errors,
        costs=np.broadcast_to(costs, errors.shape),
        allowed=np.ones(errors.shape, dtype=np.bool_),
        names=tuple(stage.llms[column] for column in trial.unseen),
    )


def _targets(candidates: Candidates, dear: float) -> tuple[Policy, Policy, Policy]:
    """Three policies other than the one that logs: the best answers, thriftier ones, any LLM by lot."""
    return Lagrangian(0.0), Lagrangian(dear), Weighted(dict.fromkeys(candidates.names, 1.0))


def _log(
    policy: Policy, candidates: Candidates, scores: np.ndarray, rng: np.random.Generator
) -> LoggedDecisions:
    choices = policy.choose(candidates, rng=rng)
    rows = np.arange(len(scores))
    return LoggedDecisions(
        ids=[str(row) for row in rows],
        chosen=choices.llms,
        probabilities=probabilities_of(policy, candidates),
        rewards=scores[rows, choices.llms],
    )
