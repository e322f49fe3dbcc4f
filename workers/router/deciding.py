"""Decides prompts by one policy; where it spends a budget, within what is lent and at the lambda of now."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from routing.decisions import Decisions
from routing.errors import NoCandidateError
from routing.policies import Policy
from workers.errors import PoisonError
from workers.messages import Pace
from workers.policies import PERIODS, Declaration
from workers.router.pacing import Pacers
from workers.router.views import NamedPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decisions by one policy, with what each was made at where the policy spends a budget."""

    decisions: Decisions
    #: One per prompt, or none at all.
    paces: tuple[Pace, ...] = ()

    def pace(self, row: int) -> Pace | None:
        """Give what the decision of one prompt was made at."""
        return self.paces[row] if self.paces else None


def decide_batch(
    name: str,
    declaration: Declaration,
    decide: Callable[[Policy], Decisions],
    *,
    pacers: Pacers,
    now: datetime,
) -> Batch:
    """Decide a batch by the policy of a name; ``decide`` gives the decisions of its prompts by a policy.

    It is asked twice where a budget has less left than the batch would cost. Raises what ``decide`` raises.
    """
    budget = declaration.budget
    if budget is None:
        return Batch(decisions=decide(declaration.policy))
    pace = pacers.open(name, budget, now)
    policy = budget.in_force(error_per_usd=pace.error_per_usd, remaining_usd=pace.remaining_usd)
    decisions = decide(policy.policy)
    wanted = float(np.nansum(decisions.predicted_costs))
    if wanted > pace.remaining_usd:
        pace = pacers.extend(name, budget, wanted - pace.remaining_usd, now)
        policy = budget.in_force(error_per_usd=pace.error_per_usd, remaining_usd=pace.remaining_usd)
        decisions = decide(policy)
    costs = np.nan_to_num(decisions.predicted_costs)
    pacers.spend(name, budget, costs[decisions.llms >= 0].tolist(), now)
    before = np.concatenate([[0.0], np.cumsum(costs)[:-1]])
    return Batch(
        decisions=decisions,
        paces=tuple(
            Pace(error_per_usd=pace.error_per_usd, remaining_usd=pace.remaining_usd, spent_usd=spent)
            for spent in before.tolist()
        ),
    )


def refuse_choice(named: NamedPolicy, decisions: Decisions, row: int) -> PoisonError:
    """Say why no LLM was chosen: which limit removed which, or that the policy takes none of what is left."""
    left = [name for name, stays in zip(decisions.names, decisions.allowed.mask[row], strict=True) if stays]
    if not left:
        return PoisonError("no_candidate", str(NoCandidateError(decisions.removed(row))))
    budget = named.declaration.budget
    if budget is not None:
        period = next(name for name, seconds in PERIODS.items() if seconds == budget.period_s)
        return PoisonError(
            "budget_exhausted",
            f"policy {named.name} has less left of its {budget.usd:g} USD a {period} (UTC) than the cheapest "
            "LLM within the limits is expected to cost",
        )
    reasons = "; ".join(f"{name}: {limit}" for name, limit in sorted(decisions.removed(row).items()))
    return PoisonError(
        "no_candidate",
        f"policy {named.name} takes none of the LLMs that the limits leave, {', '.join(left)} "
        f"(removed: {reasons or 'none'})",
    )
