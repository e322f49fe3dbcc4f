"""How good a router is: deferral curves, the papers' metrics, intervals, and UniRoute's protocol."""

from routing.evaluation.cost_rules import COST_RULES, CostKind, CostRule, mean_costs, prompt_costs
from routing.evaluation.curves import DeferralCurve, RoutingPath, follow_path, trace_path
from routing.evaluation.draws import Trial, draw_trials
from routing.evaluation.metrics import Pool
from routing.evaluation.outcomes import RecordedOutcomes, RecordedUsage
from routing.evaluation.protocol import evaluate_methods
from routing.evaluation.summaries import Evaluation, MethodSummary, TrialResult

__all__ = [
    "COST_RULES",
    "CostKind",
    "CostRule",
    "DeferralCurve",
    "Evaluation",
    "MethodSummary",
    "Pool",
    "RecordedOutcomes",
    "RecordedUsage",
    "RoutingPath",
    "Trial",
    "TrialResult",
    "draw_trials",
    "evaluate_methods",
    "follow_path",
    "mean_costs",
    "prompt_costs",
    "trace_path",
]
