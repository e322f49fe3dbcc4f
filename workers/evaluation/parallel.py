"""Trials in several processes: each fits its own clusters once, and computes with its share of the cores."""

from collections.abc import Iterator, Sequence

import joblib  # type: ignore[import-untyped]

from routing.evaluation import Trial, TrialResult
from workers.evaluation.study import Work


def run_in_processes(work: Work, trials: Sequence[Trial], *, jobs: int) -> Iterator[TrialResult]:
    """Run the trials in ``jobs`` processes; results come as they are done, equal to those of one process."""
    pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    results: Iterator[TrialResult] = pool(joblib.delayed(work)(trial) for trial in trials)
    return results
