"""From an LLM's first probe to its retirement: what it takes to go a step on, and the way back."""

from workers.lifecycle.dispatching import Probe, ProbeLane
from workers.lifecycle.draining import await_quiet, drain, retire
from workers.lifecycle.probing import Ask, Graded, Probed, ProbesFailedError, begin, probe
from workers.lifecycle.sampling import (
    SAMPLING,
    KnownAnswer,
    LiveReader,
    Sampled,
    Sampler,
    SamplingRule,
)
from workers.lifecycle.steps import Conditions, demote, promote

__all__ = [
    "SAMPLING",
    "Ask",
    "Conditions",
    "Graded",
    "KnownAnswer",
    "LiveReader",
    "Probe",
    "ProbeLane",
    "Probed",
    "ProbesFailedError",
    "Sampled",
    "Sampler",
    "SamplingRule",
    "await_quiet",
    "begin",
    "demote",
    "drain",
    "probe",
    "promote",
    "retire",
]
