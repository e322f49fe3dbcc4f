"""Explains what would be chosen for a prompt now, and why, from the state that routers decide from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.decisions import CandidateFacts, Decisions, Explanation, Prompts, decide, explain
from routing.embedders import Embedder, Fingerprint
from routing.policies import Lagrangian, probabilities_of
from routing.requests import Limits
from routing.snapshot import Snapshot
from workers.errors import PoisonError, UsageError
from workers.policies import DEFAULT_POLICY, read_policy
from workers.prompts import count_tokens
from workers.storage.engine import transaction
from workers.storage.grants import Grants
from workers.storage.snapshots import load_state
from workers.storage.tenants import DEFAULT_TENANT, Tenant, Tenants
from workers.tenants import narrow_limits, permit_policy

#: Standard deviations on either side of a predicted error that hold it with 90 %.
_NORMAL_90 = 1.645
#: What is said where a policy spends a budget.
_MOVES = " This is by the lambda that the budget starts from; spending moves it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A decision that was not made for anybody, with what led to it."""

    #: ``NAME@VERSION``, with the body.
    policy: str
    body: Mapping[str, Any]
    input_tokens: float
    explanation: Explanation
    #: The probability with which the policy chooses each LLM, of those it ever chooses here.
    chances: Mapping[str, float]
    #: Why the winner won, in a sentence.
    reason: str
    #: Whose prompt it would be, and the lesser of what is left of its budgets; ``None``: it has none.
    tenant: str
    left_usd: float | None
    #: Whether the budget does not cover the call, so that the tenant gets an error or its cheapest LLM.
    short: bool


def explain_prompt(
    engine: Engine,
    text: str,
    *,
    open_embedder: Callable[[Fingerprint], Embedder],
    policy: str | None = None,
    limits: Limits | None = None,
    tenant: str = DEFAULT_TENANT,
    day: date,
) -> Explained:
    """Decide one prompt as a router would now, and say why it goes where it goes.

    It is a prompt of ``tenant``, held against its LLMs, its policies, and what is left of its budgets on the
    UTC ``day``. A policy that draws is asked with the draw .5, one that spends a budget with the lambda that
    it starts from. Raises ``UsageError`` while no map is in force, for a policy or a tenant that there is
    not, and for a policy that the tenant may not use.
    """
    with transaction(engine) as session:
        state = load_state(session)
        payer = Tenants(session).get(tenant)
        left = _left_usd(session, payer, day)
    try:
        policy = permit_policy(policy, payer) or DEFAULT_POLICY
    except PoisonError as error:
        raise UsageError(error.sentence) from error
    if state.snapshot is None:
        raise UsageError("no cluster map with error rates is in force: run `uniroute map fit` first")
    if policy not in state.policies:
        known = ", ".join(sorted(state.policies)) or "none"
        raise UsageError(f"no policy is named {policy!r}; in force: {known}")
    version, body = state.policies[policy]
    declared = read_policy(policy, body)
    chooser = declared.policy
    limits = narrow_limits(limits or Limits(), payer)
    embedder = open_embedder(state.snapshot.cluster_map.fingerprint)
    asked = Prompts(
        embeddings=embedder.encode([text]),
        input_tokens=np.array([count_tokens(text)]),
        limits=[limits],
    )
    decisions = decide(asked, state.snapshot, chooser, rng=_Even())
    found = explain(decisions, 0, policy=chooser)
    reason = _reason(found, declared.kind) + (_MOVES if declared.budget is not None else "")
    ceiling = found.candidates[0].ceiling_usd if found.llm is not None else 0.0
    short = left is not None and ceiling > max(left, 0.0)
    if left is not None and short:
        reason = _tell_short(payer, ceiling, left)
        cheapest = _degrade(asked, limits, decisions, state.snapshot)
        found = replace(found, llm=None, propensity=0.0) if payer.at_limit == "error" else cheapest
    chances = probabilities_of(chooser, decisions.candidates(0))[0]
    return Explained(
        policy=f"{policy}@{version}",
        body=body,
        input_tokens=float(asked.input_tokens[0]),
        explanation=found,
        chances={
            name: float(chance) for name, chance in zip(decisions.names, chances, strict=True) if chance
        },
        reason=reason,
        tenant=payer.name,
        left_usd=left,
        short=short,
    )


def interval(facts: CandidateFacts) -> tuple[float, float] | None:
    """Give what holds a predicted error with 90 %, within 0..1; ``None`` where no deviation is known."""
    if facts.error_deviation is None:
        return None
    half = _NORMAL_90 * facts.error_deviation
    return max(facts.predicted_error - half, 0.0), min(facts.predicted_error + half, 1.0)


class _Even:
    """Draws .5 whenever asked."""

    def random(self, size: int, /) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return np.full(size, 0.5)


def _left_usd(session: Session, tenant: Tenant, day: date) -> float | None:
    """Give what is not spent or reserved yet of a tenant's budgets: the lesser of day and month."""
    budgets = tenant.usd_per_day, tenant.usd_per_month
    found = Grants(session).balances(tenant.name, day=day, budgets=budgets)
    # What was lent to a router and is not reserved yet can still be spent by that one.
    left = [one.budget - one.reserved - one.settled - one.untold for one in found if one.budget is not None]
    return float(min(left)) if left else None


def _degrade(asked: Prompts, limits: Limits, decisions: Decisions, snapshot: Snapshot) -> Explanation:
    """Explain the decision for the cheapest LLM that the limits leave, by expected USD, then by name."""
    costs = np.where(decisions.allowed.mask[0], decisions.costs[0], np.inf)
    cheapest = Limits(candidates=frozenset({decisions.names[int(np.argmin(costs))]}))
    only = replace(asked, limits=[limits.tightened(cheapest)])
    return explain(decide(only, snapshot, Lagrangian(0.0), rng=_Even()), 0, policy=Lagrangian(0.0))


def _tell_short(tenant: Tenant, usd: float, left: float) -> str:
    given = "an error reply" if tenant.at_limit == "error" else "the cheapest LLM, flagged as degraded"
    return (
        f"The budget of tenant {tenant.name} has {max(left, 0.0):.6g} USD left, less than the {usd:.6g} that "
        f"this call may cost: the prompt gets {given}."
    )


def _reason(found: Explanation, kind: str) -> str:
    stayed = [facts for facts in found.candidates if facts.removed_by is None]
    if found.llm is None:
        return (
            "No LLM is left within the limits." if not stayed else f"The {kind} policy takes none of these."
        )
    winner = stayed[0]
    if len(stayed) == 1:
        return f"{winner.name} is the only LLM that the limits leave."
    if winner.score is not None:
        second = min(stayed[1:], key=lambda facts: facts.score if facts.score is not None else np.inf)
        tie = second.score == winner.score
        by = "ties with it and loses by cost, then error, then name" if tie else f"scores {second.score:.6f}"
        return (
            f"{winner.name} scores least, {winner.score:.6f} of error and weighed cost; {second.name} {by}."
        )
    return f"{winner.name} is what the {kind} policy takes with probability {found.propensity:.3f}."
