"""What a router does with a prompt that its tenant's budget does not cover."""

from dataclasses import replace

import numpy as np
from prometheus_client import Counter

from routing.clusters import Placement
from routing.decisions import decide_placed
from routing.policies import LoggedDraws
from routing.requests import Limits
from workers.errors import PoisonError
from workers.messages import TENANT_BUDGET
from workers.router.records import Decided
from workers.router.views import NamedPolicy
from workers.storage.tenants import Tenant
from workers.tenants import Shortage

SHORTAGES = Counter(
    "uniroute_budget_shortages_total",
    "Prompts beyond their tenant's budget, by why (spent, unknown) and what they got (error, degrade)",
    ["reason", "outcome"],
)
#: With one LLM left any policy chooses it; this one says so when the decision is replayed.
_ONLY_CHOICE = {"kind": "lagrangian", "error_per_usd": 0.0}


def degrade(decided: Decided) -> Decided:
    """Decide for the cheapest LLM that the prompt's limits allow, by expected USD, then by name.

    The decision is flagged, replays as any other, and keeps the id of the one it replaces: the caller signs
    it anew.
    """
    decisions, row = decided.decisions, decided.row
    costs = np.where(decisions.allowed.mask[row], decisions.costs[row], np.inf)
    cheapest = decisions.names[int(np.argmin(costs))]
    limits = decided.limits.tightened(Limits(candidates=frozenset({cheapest})))
    named = NamedPolicy.build(decided.named.name, 1, _ONLY_CHOICE)
    one = slice(row, row + 1)
    again = decide_placed(
        Placement(weights=decisions.weights[one], cells=decisions.cells[one]),
        np.array([decided.prompt.input_tokens]),
        [limits],
        decided.snapshot,
        named.declaration.policy,
        rng=LoggedDraws(np.array([0.5])),  # drawn where LLMs are on trial, whatever it is
    )
    return replace(
        decided,
        limits=limits,
        decisions=again,
        row=0,
        # A name that no version of the policy has, so that it is replayed from its own body.
        named=replace(named, version=f"{decided.named.version}+{TENANT_BUDGET}"),
        pace=None,
        degraded=TENANT_BUDGET,
        may_cascade=False,
    )


def refuse_spending(tenant: Tenant, usd: float, shortage: Shortage) -> PoisonError:
    """Say why a prompt is not answered: ``budget_exhausted``, or ``budget_unknown``, which may pass."""
    if shortage.reason == "unknown":
        return PoisonError(
            "budget_unknown",
            f"what is left of the budget of tenant {tenant.name} cannot be read now: send the prompt again",
        )
    budgets = [
        f"{usd_per:g} USD a {period}"
        for usd_per, period in ((tenant.usd_per_day, "day"), (tenant.usd_per_month, "month"))
        if usd_per is not None
    ]
    return PoisonError(
        "budget_exhausted",
        f"tenant {tenant.name} has less than the {usd:.6g} USD left that this prompt may cost; its budget is "
        f"{' and '.join(budgets)} (UTC)",
    )
