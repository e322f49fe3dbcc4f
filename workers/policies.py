"""From a policy's declaration, as Postgres keeps it, to the policy that chooses."""

import math
from collections.abc import Mapping
from typing import Any

from routing.errors import InvalidInputError
from routing.policies import Lagrangian, Policy

#: The policy of a prompt that names none.
DEFAULT_POLICY = "default"


def build_policy(name: str, body: Mapping[str, Any]) -> Policy:
    """Build the policy that ``body`` declares: ``{"kind": "lagrangian", "error_per_usd": 40.0}``.

    Raises ``InvalidInputError`` naming the policy and the key that is unknown, missing or out of range.
    """
    known = {"kind", "error_per_usd"}
    if unknown := sorted(set(body) - known):
        raise InvalidInputError(
            f"policy {name}", f"unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    if body.get("kind") != "lagrangian":
        raise InvalidInputError(f"policy {name}", f"kind is {body.get('kind')!r}: known is 'lagrangian'")
    error_per_usd = body.get("error_per_usd")
    if (
        isinstance(error_per_usd, bool)
        or not isinstance(error_per_usd, int | float)
        or math.isnan(error_per_usd)
    ):
        raise InvalidInputError(
            f"policy {name}", f"error_per_usd is {error_per_usd!r}: give a number of at least 0"
        )
    return Lagrangian(float(error_per_usd))
