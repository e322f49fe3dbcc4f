"""Policies: given each candidate's predicted error and cost, choose one LLM per prompt."""

from routing.policies.candidates import Candidates, Choices, LoggedDraws, Policy, Scored, UniformSource
from routing.policies.lagrangian import Lagrangian
from routing.policies.limits import Allowed, Limit, allowed_llms

__all__ = [
    "Allowed",
    "Candidates",
    "Choices",
    "Lagrangian",
    "Limit",
    "LoggedDraws",
    "Policy",
    "Scored",
    "UniformSource",
    "allowed_llms",
]
