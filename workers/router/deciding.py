"""Decides prompts by one policy; where it spends a budget, within what is lent and at the lambda of now."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from routing.decisions import Decisions
from routing.errors import NoCandidateError
from routing.policies import Policy
from workers.errors import PoisonError
from workers.messages import Pace
from workers.policies import PERIODS, Declaration
from workers.router.pacing import PacedBatch, Pacers, Reserved
from workers.router.views import NamedPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decisions by one policy; where it spends a budget, with what each was made at and reserved."""

    decisions: Decisions
    #: What chose, where the policy spends a budget.
    paced: PacedBatch | None = None

    def pace(self, row: int) -> Pace | None:
        """Give what the decision of one prompt was made at."""
        return None if self.paced is None else self.paced.paces[row]

    def reserved(self, row: int) -> Reserved | None:
        """Give what the decision of one prompt holds of the policy's budget."""
        return None if self.paced is None else self.paced.reserved[row]


def decide_batch(
    name: str,
    declaration: Declaration,
    decide: Callable[[Policy], Decisions],
    *,
    pacers: Pacers,
    now: datetime,
) -> Batch:
    """Decide a batch by the policy of a name; ``decide`` gives the decisions of its prompts by a policy.

    Raises what ``decide`` raises.
    """
    if declaration.budget is None:
        return Batch(decisions=decide(declaration.policy))
    paced = pacers.start(name, declaration.budget, now, fallbacks=declaration.fallbacks)
    return Batch(decisions=decide(paced), paced=paced)


def refuse_choice(named: NamedPolicy, batch: Batch, row: int) -> PoisonError:
    """Say why no LLM was chosen: which limit removed which, or that the policy takes none of what is left."""
    decisions = batch.decisions
    left = [name for name, stays in zip(decisions.names, decisions.allowed.mask[row], strict=True) if stays]
    if not left:
        return PoisonError("no_candidate", str(NoCandidateError(decisions.removed(row))))
    if batch.paced is not None:
        return refuse_budget(named, batch.paced.shortage)
    reasons = "; ".join(f"{name}: {limit}" for name, limit in sorted(decisions.removed(row).items()))
    return PoisonError(
        "no_candidate",
        f"policy {named.name} takes none of the LLMs that the limits leave, {', '.join(left)} "
        f"(removed: {reasons or 'none'})",
    )


def refuse_budget(named: NamedPolicy, reason: Literal["spent", "unknown"]) -> PoisonError:
    """Say that a policy's budget is ``spent``, or that what is left of it is ``unknown`` just now."""
    budget = named.declaration.budget
    if budget is None or reason == "unknown":
        return PoisonError(
            "budget_unknown",
            f"what is left of the budget of policy {named.name} cannot be read now: send the prompt again",
        )
    period = next(name for name, seconds in PERIODS.items() if seconds == budget.period_s)
    return PoisonError(
        "budget_exhausted",
        f"policy {named.name} has less left of its {budget.usd:g} USD a {period} (UTC) than the cheapest "
        "answer within the limits may cost",
    )
