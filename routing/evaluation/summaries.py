"""From trials to the numbers of a table: means, intervals and paired differences from raw UniRoute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from routing.evaluation.bootstrap import Interval, bootstrap_interval, paired_interval
from routing.evaluation.curves import Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MethodTrial:
    """One method in one trial; the measures are those of ``routing.evaluation.metrics``."""

    area: float
    area_hull: float
    area50: float
    qnc: float
    peak: float
    aiq: float
    cost_save: float
    oracle_gap: float
    #: NaN for rows that fit nothing or were not timed.
    seconds_fit: float
    microseconds_per_prompt: float
    #: Area on a sampled path, on all test prompts and on each of the B resamples.
    area_sampled: float
    areas_resampled: Vector
    #: Envelope at ``PROFILE_COSTS``.
    profile: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialResult:
    """All methods of one trial, by number of labels and name."""

    number: int
    rows: Mapping[tuple[int, str], MethodTrial]
    #: The methods again, had the rule known only the LLMs' mean costs; empty where that is all it knew.
    at_mean_cost: Mapping[tuple[int, str], MethodTrial] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MethodSummary:
    """One method over all trials: means, with 95 % intervals."""

    area: float
    #: Test prompts drawn anew, the trials' pools and labels as they are.
    area_ci: Interval
    area_hull: float
    area50: float
    #: Mean Area minus raw UniRoute's, paired by trial.
    minus_uniroute: float
    #: Test prompts drawn anew, alike for both methods and all trials; pools and labels as they are.
    minus_uniroute_ci: Interval
    #: Student's t over trials: pools and labels drawn anew, test prompts as they are; NaN with one trial.
    minus_uniroute_trials_ci: Interval
    #: The same on the hull.
    minus_uniroute_hull: float
    #: Mean Area minus that of the same method had the rule known only the LLMs' mean costs; NaN where that is
    #: all it knew. Intervals as above.
    minus_mean_cost: float
    minus_mean_cost_ci: Interval
    minus_mean_cost_trials_ci: Interval
    #: Mean over the trials that reached the best single LLM's quality; NaN if none did.
    qnc: float
    #: Their share.
    qnc_reached: float
    peak: float
    aiq: float
    cost_save: float
    oracle_gap: float
    seconds_fit: float
    microseconds_per_prompt: float
    #: Mean envelope at ``PROFILE_COSTS``.
    profile: Vector
    #: (trials,).
    areas: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """All methods at one number of labels, in the order they were given."""

    #: Asked for; ``labels_used`` is less where val has fewer prompts.
    labels: int
    labels_used: int
    trials: int
    methods: Mapping[str, MethodSummary]


def summarise_trials(
    results: Sequence[TrialResult], *, labels: Sequence[int], n_val: int, reference: str
) -> tuple[Evaluation, ...]:
    """Summarise at least one trial for each number of labels."""
    evaluations = []
    for count in labels:
        names = [name for used, name in results[0].rows if used == count]
        raw = [result.rows[count, reference] for result in results]
        evaluations.append(
            Evaluation(
                labels=count,
                labels_used=min(count, n_val),
                trials=len(results),
                methods={
                    name: _summarise(
                        [result.rows[count, name] for result in results],
                        raw,
                        [result.at_mean_cost[count, name] for result in results]
                        if (count, name) in results[0].at_mean_cost
                        else [],
                    )
                    for name in names
                },
            )
        )
    return tuple(evaluations)


def _summarise(
    trials: Sequence[MethodTrial], raw: Sequence[MethodTrial], at_mean_cost: Sequence[MethodTrial]
) -> MethodSummary:
    def mean(field: str) -> float:
        return float(np.mean([getattr(trial, field) for trial in trials]))

    areas = np.array([trial.area for trial in trials])
    hulls = [trial.area_hull - other.area_hull for trial, other in zip(trials, raw, strict=True)]
    resampled = np.mean([trial.areas_resampled for trial in trials], axis=0)
    reached = [trial.qnc for trial in trials if np.isfinite(trial.qnc)]
    minus_uniroute = _subtract(trials, raw)
    minus_mean_cost = _subtract(trials, at_mean_cost) if at_mean_cost else _NO_DIFFERENCE
    return MethodSummary(
        area=float(areas.mean()),
        area_ci=bootstrap_interval(float(areas.mean()), mean("area_sampled"), resampled),
        area_hull=mean("area_hull"),
        area50=mean("area50"),
        minus_uniroute=minus_uniroute.mean,
        minus_uniroute_ci=minus_uniroute.ci,
        minus_uniroute_trials_ci=minus_uniroute.trials_ci,
        minus_uniroute_hull=float(np.mean(hulls)),
        minus_mean_cost=minus_mean_cost.mean,
        minus_mean_cost_ci=minus_mean_cost.ci,
        minus_mean_cost_trials_ci=minus_mean_cost.trials_ci,
        qnc=float(np.mean(reached)) if reached else np.nan,
        qnc_reached=len(reached) / len(trials),
        peak=mean("peak"),
        aiq=mean("aiq"),
        cost_save=mean("cost_save"),
        oracle_gap=mean("oracle_gap"),
        seconds_fit=mean("seconds_fit"),
        microseconds_per_prompt=mean("microseconds_per_prompt"),
        profile=np.mean([trial.profile for trial in trials], axis=0),
        areas=areas,
    )


@dataclass(frozen=True, slots=True)
class _Difference:
    """Area of one minus Area of another, over the same trials."""

    mean: float
    #: Test prompts drawn anew.
    ci: Interval
    #: Student's t over trials.
    trials_ci: Interval


_NO_DIFFERENCE = _Difference(np.nan, (np.nan, np.nan), (np.nan, np.nan))


def _subtract(trials: Sequence[MethodTrial], others: Sequence[MethodTrial]) -> _Difference:
    """Compare; a resample is the same prompts in every trial and for every method, so all stays paired."""
    differences = np.array([one.area - other.area for one, other in zip(trials, others, strict=True)])
    mean = float(differences.mean())
    pairs = list(zip(trials, others, strict=True))
    sampled = float(np.mean([one.area_sampled - other.area_sampled for one, other in pairs]))
    resampled = np.mean([one.areas_resampled - other.areas_resampled for one, other in pairs], axis=0)
    return _Difference(
        mean,
        bootstrap_interval(mean, sampled, resampled),
        paired_interval(differences) if len(differences) > 1 else (np.nan, np.nan),
    )
