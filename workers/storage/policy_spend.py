"""What budget policies may spend: parts of a period's USD that are lent to routers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from workers.storage.tables import PolicySpendRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What one router was lent now, and where all routers stand in the period."""

    #: USD that were added to what this router may spend; 0 where nothing is left.
    usd: float
    #: USD lent to all routers so far, what they have not spent included.
    total_usd: float
    #: Prompts that all routers have decided by the policy in the period, as far as they have told.
    prompts: int


class PolicySpend:
    """Lends parts of budgets: the sum of what is lent for a period never exceeds its budget.

    What a router was lent and did not spend before it died stays lent until the period ends.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def lend(
        self,
        policy: str,
        period_start: datetime,
        *,
        slot: str,
        budget_usd: float,
        need_usd: float,
        share: float,
        prompts: int,
    ) -> Lent:
        """Lend ``share`` of what is left, or ``need_usd`` where that is more, or all that is left.

        ``prompts`` are those that this router has decided since it last told. A ``need_usd`` of 0 lends
        nothing and only tells. Routers that ask at once are served one after the other.
        """
        key = {"policy": policy, "period_start": period_start}
        self._session.execute(
            select(func.pg_advisory_xact_lock(func.hashtextextended(f"policy {policy}", 0)))
        )
        of_period = (PolicySpendRow.policy == policy, PolicySpendRow.period_start == period_start)
        total, told = self._session.execute(
            select(
                func.coalesce(func.sum(PolicySpendRow.lent_usd), 0.0),
                func.coalesce(func.sum(PolicySpendRow.prompts), 0),
            ).where(*of_period)
        ).one()
        left = max(budget_usd - total, 0.0)
        usd = min(left, max(need_usd, left * share)) if need_usd > 0 else 0.0
        added: Mapping[str, float] = {"lent_usd": usd, "prompts": prompts}
        statement = insert(PolicySpendRow).values(slot=slot, **key, **added)
        self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["policy", "period_start", "slot"],
                set_={
                    "lent_usd": PolicySpendRow.lent_usd + statement.excluded.lent_usd,
                    "prompts": PolicySpendRow.prompts + statement.excluded.prompts,
                },
            )
        )
        return Lent(usd=usd, total_usd=float(total) + usd, prompts=int(told) + prompts)

    def prune(self, *, before: datetime) -> None:
        """Forget the periods that began before then."""
        self._session.execute(delete(PolicySpendRow).where(PolicySpendRow.period_start < before))
