"""Puts policies in force, if asked only as long as nothing has moved since they were planned."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine

from routing.policies import PRESET_WEIGHTS
from workers.errors import UsageError
from workers.messages import DecisionRecord
from workers.policies import check_llms, read_policy
from workers.replay.plans import Bodies, Plan
from workers.storage.engine import transaction
from workers.storage.llms import LLMs
from workers.storage.policies import Policies
from workers.storage.routing_state import RoutingState
from workers.storage.snapshots import load_state

_HASH_LENGTH = 16
#: Of a prompt whose cost presets are weighed on.
_TYPICAL_TOKENS = 500.0


def complete_presets(engine: Engine, bodies: Bodies) -> dict[str, dict[str, Any]]:
    """Give presets that name no ``reference_cost_usd`` the one of now: the dearest LLM's for 500 tokens in.

    It is written into the body, so that it stays what it was when other LLMs join. Raises ``UsageError``
    where it is needed and no map is in force.
    """
    completed = {name: dict(body) for name, body in bodies.items()}
    lacking = [
        body
        for body in completed.values()
        if body.get("kind") in PRESET_WEIGHTS and "reference_cost_usd" not in body
    ]
    if lacking:
        with transaction(engine) as session:
            snapshot = load_state(session).snapshot
        if snapshot is None or not snapshot.llms:
            raise UsageError("no LLM is in force that a preset could be weighed on: give reference_cost_usd")
        dearest = float(snapshot.predict_costs(np.array([_TYPICAL_TOKENS])).max())
        for body in lacking:
            body["reference_cost_usd"] = float(f"{max(dearest, 1e-9):.3g}")
    return completed


def hash_plan(bodies: Bodies, records: Sequence[DecisionRecord], plan: Plan, *, state_version: int) -> str:
    """Name a plan: what is to be applied, the decisions it was made on, the state, and every figure of it."""
    content = {
        "bodies": bodies,
        "decisions": [record.decision_id for record in records],
        "plan": plan.as_json(),
        "state": state_version,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]


def apply_policies(engine: Engine, bodies: Bodies, *, state_version: int | None = None) -> dict[str, int]:
    """Put policies in force, all or none, and give the version of each.

    Raises ``InvalidInputError`` for one that cannot be built or names an LLM which is not registered, and
    ``UsageError`` where the state is no longer at ``state_version``.
    """
    declared = {name: read_policy(name, body) for name, body in bodies.items()}
    with transaction(engine) as session:
        if state_version is not None and RoutingState(session).lock() != state_version:
            raise UsageError(STALE)
        known = [one.llm.name for one in LLMs(session).list() if one.state != "retired"]
        for name, declaration in declared.items():
            check_llms(name, declaration, known)
        return {name: Policies(session).put(name, body) for name, body in bodies.items()}


#: What is said of a plan that no longer holds.
STALE = (
    "the traffic or the state has moved since this plan was made, so nothing was applied: run "
    "`uniroute policy plan` again, with --to where traffic never rests"
)


def roll_back(engine: Engine, name: str, *, version: int | None = None) -> tuple[int, int]:
    """Put an older body of a policy in force again, as a new version; give the old and the new version.

    Without ``version`` it is the one before the one in force. Raises ``UsageError`` where there is none, and
    ``InvalidInputError`` where it names an LLM that is gone.
    """
    with transaction(engine) as session:
        history = Policies(session).history(name)
    if not history:
        raise UsageError(f"no policy is named {name!r}: `uniroute policy list` shows those there are")
    wanted = history[-1].version - 1 if version is None else version
    found = next((one for one in history if one.version == wanted), None)
    if found is None:
        raise UsageError(f"policy {name} has no version {wanted}: there are 1 to {history[-1].version}")
    return wanted, apply_policies(engine, {name: found.body})[name]
