"""UniRoute's protocol: some LLMs are unseen, get a few labels each, and are routed over test prompts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from routing.errors import InvalidInputError
from routing.evaluation.bench import Bench, CurveKind
from routing.evaluation.bootstrap import resample_prompts
from routing.evaluation.cost_rules import CostRule, mean_costs
from routing.evaluation.curves import Matrix
from routing.evaluation.draws import Trial, draw_trials
from routing.evaluation.outcomes import RecordedOutcomes
from routing.evaluation.references import zero_errors
from routing.evaluation.sizes import choose_clusters, set_clusters
from routing.evaluation.summaries import Evaluation, MethodTrial, TrialResult, summarise_trials
from routing.quality.estimators import Estimator

#: The method that differences are taken from.
RAW_UNIROUTE = "uniroute-kmeans"


def evaluate_methods(
    outcomes: RecordedOutcomes,
    methods: Mapping[str, Callable[[int], Estimator]],
    *,
    labels: Sequence[int] = (400,),
    clusters: int | None = 20,
    unseen: float = 1 / 3,
    trials: int = 20,
    seed: int = 0,
    estimator_seed: int = 0,
    replicates: int = 200,
    cost_rule: CostRule = mean_costs,
    curve: CurveKind = "grid",
    clock: Callable[[], float] | None = None,
    run: Callable[[Callable[[Trial], TrialResult], Sequence[Trial]], Iterable[TrialResult]] = map,
) -> tuple[Evaluation, ...]:
    """Route test prompts among unseen LLMs with every method; one ``Evaluation`` per number of labels.

    Parameters: ``methods``, by name, make a fresh estimator from ``estimator_seed``; ``uniroute-kmeans``,
    from which differences are taken, must be among them. The rows best-single, cheapest, random, zero and
    oracle are always there. ``clusters`` is the number of clusters of all methods that have one map of one
    resolution; ``None`` chooses it anew in each trial, by routing the known LLMs. ``unseen`` is the share of
    LLMs that are unseen, at least 2. A number of labels above the number of val prompts means all of them.
    ``cost_rule`` tells the rule what calls will cost; where it is not the LLMs' mean, the difference that
    it makes is measured too. ``curve`` says where curves are read. ``replicates`` resamples of the test
    prompts, the same for all
    methods and trials, give the intervals of levels and of differences. ``clock`` (say
    ``time.perf_counter``) times fits and predictions, NaN without it. ``run`` is ``map``, or a parallel or
    reporting stand-in for it.
    """
    if RAW_UNIROUTE not in methods:
        raise InvalidInputError("methods", f"must include {RAW_UNIROUTE}, the reference of all differences")
    if not labels or min(labels) < 1:
        raise InvalidInputError(
            "labels", "must be at least 1: costs of unseen LLMs come from labelled prompts"
        )
    drawn = draw_trials(len(outcomes.llms), len(outcomes.val), unseen=unseen, trials=trials, seed=seed)
    weights = resample_prompts(
        len(outcomes.test), replicates=replicates, rng=np.random.default_rng([seed, len(outcomes.test)])
    )
    work = partial(
        run_trial,
        outcomes=outcomes,
        methods=methods,
        labels=tuple(labels),
        clusters=clusters,
        weights=weights,
        estimator_seed=estimator_seed,
        cost_rule=cost_rule,
        curve=curve,
        clock=clock,
    )
    results = sorted(run(work, drawn), key=lambda result: result.number)
    return summarise_trials(results, labels=labels, n_val=len(outcomes.val), reference=RAW_UNIROUTE)


def run_trial(
    trial: Trial,
    *,
    outcomes: RecordedOutcomes,
    methods: Mapping[str, Callable[[int], Estimator]],
    labels: Sequence[int],
    weights: Matrix,
    clusters: int | None = 20,
    estimator_seed: int = 0,
    cost_rule: CostRule = mean_costs,
    curve: CurveKind = "grid",
    clock: Callable[[], float] | None = None,
) -> TrialResult:
    """Run one trial: each method is fitted once on the known LLMs, then meets the unseen ones."""
    errors = 1.0 - outcomes.scores
    bench = Bench(outcomes, trial, weights, curve=curve)
    rows: dict[tuple[int, str], MethodTrial] = {}
    at_mean_cost: dict[tuple[int, str], MethodTrial] = {}
    known = [outcomes.llms[column] for column in trial.known]
    names = [outcomes.llms[column] for column in trial.unseen]
    time = clock or (lambda: np.nan)
    labelled = {count: outcomes.val[trial.label_order[:count]] for count in labels}
    rule_costs = {count: cost_rule(outcomes, trial, prompts) for count, prompts in labelled.items()}
    n_clusters = choose_clusters(outcomes, trial, seed=estimator_seed) if clusters is None else clusters
    for method, make in methods.items():
        started = time()
        estimator = set_clusters(make(estimator_seed), n_clusters)
        estimator.fit(outcomes.embeddings[outcomes.train], errors[np.ix_(outcomes.train, trial.known)], known)
        seconds_fit = time() - started
        for count, prompts in labelled.items():
            for name, column in zip(names, trial.unseen, strict=True):
                estimator.add_llm(name, outcomes.embeddings[prompts], errors[prompts, column])
            started = time()
            predicted = estimator.predict_error(bench.embeddings)
            seconds = time() - started
            rows[count, method] = bench.measure_rule(
                predicted,
                rule_costs[count],
                seconds_fit=seconds_fit,
                microseconds_per_prompt=1e6 * seconds / len(outcomes.test),
            )
            if cost_rule is not mean_costs:
                at_mean_cost[count, method] = bench.measure_rule(
                    predicted, mean_costs(outcomes, trial, prompts)
                )
            for name in names:
                estimator.remove_llm(name)
    for count, prompts in labelled.items():
        if "zero" not in methods:
            zero = zero_errors(errors[np.ix_(prompts, trial.unseen)], len(outcomes.test))
            rows[count, "zero"] = bench.measure_rule(zero, rule_costs[count])
        for name, measured in bench.references.items():
            rows[count, name] = measured
    return TrialResult(number=trial.number, rows=rows, at_mean_cost=at_mean_cost)
