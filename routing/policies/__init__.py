"""Policies: given each candidate's predicted error and cost, choose one LLM per prompt."""

from routing.policies.calibration import (
    calibrate_budget,
    calibrate_floor,
    calibrate_floor_on_labels,
    certify_equivalence,
)
from routing.policies.candidates import Candidates, Choices, LoggedDraws, Policy, Scored, UniformSource
from routing.policies.chances import Exploration, Mixture, Randomised, Weighted, probabilities_of
from routing.policies.floors import EquivalentTo, QualityFloor
from routing.policies.lagrangian import Lagrangian
from routing.policies.limits import Allowed, Limit, allowed_llms
from routing.policies.named import Fixed, Threshold, calibrate_threshold
from routing.policies.pacing import Ceiling, Pacing, PacingState, left_per_prompt
from routing.policies.planning import PlannedPacing, PlannedState, SpendingPlan, plan_spending
from routing.policies.presets import PRESET_WEIGHTS, Preset, preset_policy
from routing.policies.trials import OnTrial, check_trials, keep_on_trial

__all__ = [
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
    "Pacing",
    "PacingState",
    "PlannedPacing",
    "PlannedState",
    "Policy",
    "Preset",
    "QualityFloor",
    "Randomised",
    "Scored",
    "SpendingPlan",
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
    "left_per_prompt",
    "plan_spending",
    "preset_policy",
    "probabilities_of",
]
