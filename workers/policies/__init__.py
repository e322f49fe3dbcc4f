"""Policies as people declare them: read from a file or from Postgres, checked, and built."""

from workers.policies.cascading import Cascading
from workers.policies.declarations import (
    COMMON_KEYS,
    PERIODS,
    Budget,
    Declaration,
    build_policy,
    check_llms,
    read_policy,
)
from workers.policies.exploring import explore_at_least
from workers.policies.files import load_policy_bodies, load_policy_file, read_policies

#: The policy of a prompt that names none.
DEFAULT_POLICY = "default"

__all__ = [
    "COMMON_KEYS",
    "DEFAULT_POLICY",
    "PERIODS",
    "Budget",
    "Cascading",
    "Declaration",
    "build_policy",
    "check_llms",
    "explore_at_least",
    "load_policy_bodies",
    "load_policy_file",
    "read_policies",
    "read_policy",
]
