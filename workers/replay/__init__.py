"""Decides logged traffic again: as it was, to hold the two against each other, or with something changed."""

from workers.replay.again import Change, Replay, replay
from workers.replay.applying import STALE, apply_policies, complete_presets, hash_plan, roll_back
from workers.replay.logged import LAST_DECISIONS, read_decisions
from workers.replay.plans import Move, Plan, name_of, plan_from_log, plan_from_now
from workers.replay.valuing import PolicyValue, Valuation, value_policies

__all__ = [
    "LAST_DECISIONS",
    "STALE",
    "Change",
    "Move",
    "Plan",
    "PolicyValue",
    "Replay",
    "Valuation",
    "apply_policies",
    "complete_presets",
    "hash_plan",
    "name_of",
    "plan_from_log",
    "plan_from_now",
    "read_decisions",
    "replay",
    "roll_back",
    "value_policies",
]
