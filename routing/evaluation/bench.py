"""One trial's test prompts and unseen LLMs, on which routers are measured side by side."""

from typing import Literal

import numpy as np

from routing.evaluation.bootstrap import area_of_points, resampled_areas
from routing.evaluation.curves import DeferralCurve, Matrix, Vector, follow_path, sample_path, trace_path
from routing.evaluation.draws import Trial
from routing.evaluation.metrics import (
    Pool,
    aiq,
    area,
    area_half,
    area_hull,
    cost_save,
    oracle_gap,
    peak,
    quality_neutral_cost,
)
from routing.evaluation.outcomes import RecordedOutcomes
from routing.evaluation.references import REFERENCE_POINTS, oracle_errors
from routing.evaluation.summaries import MethodTrial

#: Relative costs at which mean curves are read, 0 the pool's cheapest LLM and 1 its dearest.
PROFILE_COSTS = np.linspace(0.0, 1.0, 201)

#: Where a curve is read: at every break point of lambda, or on a grid of 800 lambdas (and 0), 2.6 % apart, so
#: that levels are those of other implementations. The grid never gains. It costs methods with many close
#: break points most: soft ones with 50 labels up to .008 of plain Area and .001 on the hull.
CurveKind = Literal["grid", "exact"]
#: Times 1 / mean cost of the LLMs.
LAMBDA_GRID = np.logspace(-6.0, 3.0, 800)


class Bench:
    """One trial's test prompts and unseen LLMs, ready to measure routers on."""

    def __init__(
        self, outcomes: RecordedOutcomes, trial: Trial, weights: Matrix, *, curve: CurveKind = "grid"
    ) -> None:
        self.embeddings = outcomes.embeddings[outcomes.test]
        self._scores = outcomes.scores[np.ix_(outcomes.test, trial.unseen)]
        self._costs = outcomes.costs[np.ix_(outcomes.test, trial.unseen)]
        self._pool = Pool.of(self._scores, self._costs)
        self._weights = weights
        self._kind = curve
        self.references = {"oracle": self.measure_rule(oracle_errors(self._scores), self._costs)}
        for name, points in REFERENCE_POINTS.items():
            scores, costs = points(self._scores, self._costs, self._pool)
            points_curve = DeferralCurve(costs=costs.mean(axis=1), qualities=scores.mean(axis=1))
            resampled = area_of_points(scores, costs, self._costs, weights)
            self.references[name] = self._measure(points_curve, resampled)

    def measure_rule(
        self,
        errors: Matrix,
        costs: Matrix,
        *,
        seconds_fit: float = np.nan,
        microseconds_per_prompt: float = np.nan,
    ) -> MethodTrial:
        """Measure argmin errors + lambda * costs, both as predicted, against what was recorded."""
        path = trace_path(errors, costs)
        mean_cost = float(costs.mean())
        lambdas = LAMBDA_GRID / mean_cost if self._kind == "grid" and mean_cost > 0 else None
        realised = follow_path(path, self._scores, self._costs, lambdas=lambdas)
        resampled = resampled_areas(sample_path(path), self._scores, self._costs, self._weights)
        return self._measure(
            realised, resampled, seconds_fit=seconds_fit, microseconds_per_prompt=microseconds_per_prompt
        )

    def _measure(
        self,
        curve: DeferralCurve,
        resampled: tuple[float, Vector],
        *,
        seconds_fit: float = np.nan,
        microseconds_per_prompt: float = np.nan,
    ) -> MethodTrial:
        low, high = self._pool.cost_range
        return MethodTrial(
            area=area(curve, low, high),
            area_hull=area_hull(curve, low, high),
            area50=area_half(curve, low, high),
            qnc=quality_neutral_cost(curve, self._pool),
            peak=peak(curve),
            aiq=aiq(curve, low, high),
            cost_save=cost_save(curve, self._pool),
            oracle_gap=oracle_gap(curve, self._scores),
            seconds_fit=seconds_fit,
            microseconds_per_prompt=microseconds_per_prompt,
            area_sampled=resampled[0],
            areas_resampled=resampled[1],
            profile=_read_profile(curve, low, high),
        )


def _read_profile(curve: DeferralCurve, low: float, high: float) -> Vector:
    """Return the envelope at ``PROFILE_COSTS``."""
    envelope = curve.envelope()
    slack = 1e-9 * abs(high)
    at = np.searchsorted(envelope.costs, low + PROFILE_COSTS * (high - low) + slack, side="right") - 1
    profile: Vector = envelope.qualities[np.clip(at, 0, None)]
    return profile
