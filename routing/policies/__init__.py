"""Policies: given each candidate's predicted error and cost, choose one LLM per prompt."""

from routing.policies.calibration import (
    calibrate_budget,
    calibrate_floor,
    calibrate_floor_on_labels,
    certify_equivalence,
)
from routing.policies.candidates import Candidates, Choices, LoggedDraws, Policy, Scored, UniformSource
from routing.policies.ceilings import Ceiling, reservable
from routing.policies.chances import Exploration, Mixture, Randomised, Weighted, probabilities_of
from routing.policies.floors import EquivalentTo, QualityFloor
from routing.policies.lagrangian import Lagrangian
from routing.policies.limits import Allowed, Limit, allowed_llms
from routing.policies.named import Fixed, Threshold, calibrate_threshold
from routing.policies.planning import (
    MOST_ERROR_PER_USD,
    SpendingPlan,
    Standing,
    pace_spending,
    plan_spending,
)
from routing.policies.presets import PRESET_WEIGHTS, Preset, preset_policy
from routing.policies.trials import OnTrial, check_trials, keep_on_trial

__all__ = [
    "MOST_ERROR_PER_USD",
    "PRESET_WEIGHTS",
    "Allowed",
    "Candidates",
    "Ceiling",
    "Choices",
    "EquivalentTo",
    "Exploration",
    "Fixed",
    "Lagrangian",
    "Limit",
    "LoggedDraws",
    "Mixture",
    "OnTrial",
    "Policy",
    "Preset",
    "QualityFloor",
    "Randomised",
    "Scored",
    "SpendingPlan",
    "Standing",
    "Threshold",
    "UniformSource",
    "Weighted",
    "allowed_llms",
    "calibrate_budget",
    "calibrate_floor",
    "calibrate_floor_on_labels",
    "calibrate_threshold",
    "certify_equivalence",
    "check_trials",
    "keep_on_trial",
    "pace_spending",
    "plan_spending",
    "preset_policy",
    "probabilities_of",
    "reservable",
]
