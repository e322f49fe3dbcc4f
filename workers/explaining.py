"""Explains what would be chosen for a prompt now, and why, from the state that routers decide from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.decisions import CandidateFacts, Decisions, Explanation, Prompts, decide, explain
from routing.embedders import Embedder, Fingerprint
from routing.policies import Lagrangian, keep_on_trial, probabilities_of
from routing.requests import Limits
from routing.snapshot import Snapshot
from workers.errors import PoisonError, UsageError
from workers.policies import DEFAULT_POLICY, PERIODS, Budget, Declaration
from workers.prompts import count_tokens
from workers.router.pacing import Account, period_start
from workers.router.stages import Stage, plan_stages
from workers.router.views import NamedPolicy
from workers.storage.engine import transaction
from workers.storage.grants import Grants
from workers.storage.policy_books import PolicyBooks
from workers.storage.snapshots import load_state
from workers.storage.tenants import DEFAULT_TENANT, Tenant, Tenants
from workers.tenants import narrow_limits, permit_policy

#: Standard deviations on either side of a predicted error that hold it with 90 %.
_NORMAL_90 = 1.645


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
    #: Where the policy spends a budget: how it is paced now.
    pacing: "Pacing | None" = None
    #: Whom a cascade asks, one after another as far as it comes to that; empty for any other policy.
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How a policy that spends a budget stands in the current period."""

    #: The lambda that was decided by.
    error_per_usd: float
    #: The router that told of it last, and when; ``None``: none has in this period, and it is the first.
    router: str | None
    told_at: datetime | None
    #: ``hour`` or ``day``, of UTC.
    period: str
    budget_usd: float
    #: What decisions can still reserve of it.
    left_usd: float


def explain_prompt(
    engine: Engine,
    text: str,
    *,
    open_embedder: Callable[[Fingerprint], Embedder],
    policy: str | None = None,
    limits: Limits | None = None,
    tenant: str = DEFAULT_TENANT,
    now: datetime,
) -> Explained:
    """Decide one prompt as a router would now, and say why it goes where it goes.

    It is a prompt of ``tenant``, held against its LLMs, its policies, and what is left of its budgets. A
    policy that draws is asked with the draw .5, one that spends a budget with the lambda that a router has
    told of last in this period, or the one that it starts from. Raises ``UsageError`` while no map is in
    force, for a policy or a tenant that there is not, and for a policy that the tenant may not use.
    """
    with transaction(engine) as session:
        state = load_state(session)
        payer = Tenants(session).get(tenant)
        left = _left_usd(session, payer, now.astimezone(UTC).date())
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
    named = NamedPolicy.build(policy, version, body).exploring(payer.exploration_share)
    declared = named.declaration
    chooser, pacing = declared.policy, None
    if declared.budget is not None:
        pacing = _read_pacing(engine, policy, declared.budget, now)
        chooser = declared.budget.at(pacing.error_per_usd)
    limits = narrow_limits(limits or Limits(), payer)
    embedder = open_embedder(state.snapshot.cluster_map.fingerprint)
    asked = Prompts(
        embeddings=embedder.encode([text]),
        input_tokens=np.array([count_tokens(text)]),
        limits=[limits],
    )
    decisions = decide(asked, state.snapshot, chooser, rng=_Even())
    found = explain(decisions, 0, policy=chooser)
    stages = _plan_stages(declared, decisions, state.snapshot, text, limits)
    ceiling = found.candidates[0].ceiling_usd if found.llm is not None else 0.0
    ceiling = sum(stage.most_usd for stage in stages) or ceiling
    reason = _reason(found, declared.kind) + ("" if pacing is None else _tell_pacing(pacing, ceiling))
    short = left is not None and ceiling > max(left, 0.0)
    if left is not None and short:
        reason = _tell_short(payer, ceiling, left)
        cheapest, stages = _degrade(asked, limits, decisions, state.snapshot), ()
        found = replace(found, llm=None, propensity=0.0) if payer.at_limit == "error" else cheapest
    tried = keep_on_trial(chooser, state.snapshot.canaries)
    chances = probabilities_of(tried, decisions.candidates(0))[0]
    return Explained(
        policy=named.version,
        body=named.body,
        input_tokens=float(asked.input_tokens[0]),
        explanation=found,
        chances={
            name: float(chance) for name, chance in zip(decisions.names, chances, strict=True) if chance
        },
        reason=reason,
        tenant=payer.name,
        left_usd=left,
        short=short,
        pacing=pacing,
        stages=stages,
    )


def interval(facts: CandidateFacts) -> tuple[float, float] | None:
    """Give what holds a predicted error with 90 %, within 0..1; ``None`` where no deviation is known."""
    if facts.error_deviation is None:
        return None
    half = _NORMAL_90 * facts.error_deviation
    return max(facts.predicted_error - half, 0.0), min(facts.predicted_error + half, 1.0)


def _plan_stages(
    declared: Declaration, decisions: Decisions, snapshot: Snapshot, text: str, limits: Limits
) -> tuple[Stage, ...]:
    """Give the stages of a policy that is a cascade."""
    if declared.cascade is None:
        return ()
    return plan_stages(
        declared.cascade.spec,
        declared.cascade.llms,
        decisions,
        0,
        snapshot,
        prompt_bytes=len(text.encode()),
        input_tokens=count_tokens(text),
        most_tokens=limits.max_output_tokens,
    )


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


def _read_pacing(engine: Engine, policy: str, budget: Budget, now: datetime) -> Pacing:
    begin = period_start(budget, now)
    with transaction(engine) as session:
        books = PolicyBooks(session)
        told, standing = books.pace(policy, begin), books.standing(policy, begin)
    lendable = float(Account(policy=policy, budget=budget, period_start=begin).lendable_usd)
    return Pacing(
        error_per_usd=(budget.error_per_usd or 0.0) if told is None else told.error_per_usd,
        router=None if told is None else told.slot,
        told_at=None if told is None else told.told_at,
        period=next(name for name, seconds in PERIODS.items() if seconds == budget.period_s),
        budget_usd=budget.usd,
        left_usd=max(lendable - standing.paid - standing.reserved, 0.0),
    )


def _tell_pacing(pacing: Pacing, ceiling: float) -> str:
    """Say which lambda that was, and what is left."""
    if pacing.told_at is None:
        told = f"which is where it starts: no router has told of any in this {pacing.period}"
    else:
        told = f"in force at router {pacing.router} at {pacing.told_at.astimezone(UTC):%H:%M:%S} UTC"
    left = f"{pacing.left_usd:.6g} of {pacing.budget_usd:g} USD are left for this {pacing.period} (UTC)"
    if ceiling > pacing.left_usd:
        left += f", less than the {ceiling:.6g} that the call may cost: it is refused, or a cheaper one made"
    return f" That is at lambda {pacing.error_per_usd:.6g}, {told}; spending moves it. {left}."


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
