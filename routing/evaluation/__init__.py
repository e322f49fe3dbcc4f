"""How good a router is: deferral curves, the papers' metrics, intervals, and UniRoute's protocol."""

from routing.evaluation.curves import DeferralCurve, RoutingPath, follow_path, trace_path
from routing.evaluation.draws import Trial, draw_trials
from routing.evaluation.metrics import Pool
from routing.evaluation.outcomes import RecordedOutcomes
from routing.evaluation.protocol import CostRule, evaluate_methods, mean_costs
from routing.evaluation.summaries import Evaluation, MethodSummary, TrialResult

__all__ = [
    "CostRule",
    "DeferralCurve",
    "Evaluation",
    "MethodSummary",
    "Pool",
    "RecordedOutcomes",
    "RoutingPath",
    "Trial",
    "TrialResult",
    "draw_trials",
    "evaluate_methods",
    "follow_path",
    "mean_costs",
    "trace_path",
]
