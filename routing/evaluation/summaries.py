"""From trials to the numbers of a table: means, intervals and paired differences from raw UniRoute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
                    name: _summarise([result.rows[count, name] for result in results], raw) for name in names
                },
            )
        )
    return tuple(evaluations)


def _summarise(trials: Sequence[MethodTrial], raw: Sequence[MethodTrial]) -> MethodSummary:
    def mean(field: str) -> float:
        return float(np.mean([getattr(trial, field) for trial in trials]))

    areas = np.array([trial.area for trial in trials])
    differences = areas - [trial.area for trial in raw]
    hulls = [trial.area_hull - other.area_hull for trial, other in zip(trials, raw, strict=True)]
    # A resample is the same prompts in every trial and for every method: means and differences stay paired.
    resampled = np.mean([trial.areas_resampled for trial in trials], axis=0)
    raw_resampled = np.mean([trial.areas_resampled for trial in raw], axis=0)
    sampled, raw_sampled = mean("area_sampled"), float(np.mean([trial.area_sampled for trial in raw]))
    reached = [trial.qnc for trial in trials if np.isfinite(trial.qnc)]
    return MethodSummary(
        area=float(areas.mean()),
        area_ci=bootstrap_interval(float(areas.mean()), sampled, resampled),
        area_hull=mean("area_hull"),
        area50=mean("area50"),
        minus_uniroute=float(differences.mean()),
        minus_uniroute_ci=bootstrap_interval(
            float(differences.mean()), sampled - raw_sampled, resampled - raw_resampled
        ),
        minus_uniroute_trials_ci=paired_interval(differences) if len(trials) > 1 else (np.nan, np.nan),
        minus_uniroute_hull=float(np.mean(hulls)),
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
