"""The books of policies that spend a budget: what holds of them is what holds of tenants' (the ledger)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

import msgspec
from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from workers.storage.grants import NANO, Grant
from workers.storage.tables import GrantRow, PolicyBookRow, PolicyPaceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStanding:
    """Where a policy stands in one period; USD."""

    #: Settled by usage, and what was reserved for answers of which nobody told the usage.
    paid: float = 0.0
    #: What the decisions on all of these expected.
    expected: float = 0.0
    #: Reserved by booked decisions in flight, or lent and not reserved; and the former alone.
    held: float = 0.0
    reserved: float = 0.0
    #: Prompts that routers have decided, as far as they have told, and what these were expected to cost.
    prompts: int = 0
    told: float = 0.0
    #: Since when.
    begun_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """The lambda that a router was last seen to decide at."""

    error_per_usd: float
    slot: str
    told_at: datetime


class PolicyBooks:
    """Lends parts of a period's budget, is told of the pace, and says where a policy stands."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def grant(
        self,
        policy: str,
        period_start: datetime,
        *,
        slot: str,
        budget: Decimal,
        need: Decimal,
        share: float,
        lease_s: float,
    ) -> Grant | None:
        """Lend ``share`` of what is left of the budget, at least ``need``; ``None`` where that is not left.

        Routers that ask at once are served one after the other, so that no two see the same remainder.
        """
        self._session.execute(
            select(func.pg_advisory_xact_lock(func.hashtextextended(f"policy {policy}", 0)))
        )
        # A statement of its own: only one that begins after the lock was got sees every earlier grant.
        row = self._session.execute(_BALANCE, {"policy": policy, "period": period_start}).one()
        left = budget - row.paid - row.reserved - row.granted
        need = need.quantize(NANO, rounding=ROUND_CEILING)
        if left < need:
            return None
        lent = GrantRow(
            policy=policy,
            period_start=period_start,
            day=period_start.astimezone(UTC).date(),
            slot=slot,
            usd=max(need, (left * Decimal(share)).quantize(NANO)),
            expires_at=func.now() + timedelta(seconds=lease_s),
        )
        self._session.add(lent)
        self._session.flush()
        return Grant(id=lent.id, day=period_start, usd=lent.usd)

    def tell(
        self,
        policy: str,
        period_start: datetime,
        *,
        slot: str,
        prompts: int,
        expected_usd: float,
        error_per_usd: float,
    ) -> None:
        """Note ``prompts`` more that a router has decided, what they are expected to cost, and its lambda."""
        statement = insert(PolicyPaceRow).values(
            policy=policy,
            period_start=period_start,
            slot=slot,
            prompts=prompts,
            expected_usd=expected_usd,
            error_per_usd=error_per_usd,
        )
        self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["policy", "period_start", "slot"],
                set_={
                    "prompts": PolicyPaceRow.prompts + statement.excluded.prompts,
                    "expected_usd": PolicyPaceRow.expected_usd + statement.excluded.expected_usd,
                    "error_per_usd": statement.excluded.error_per_usd,
                    "told_at": func.now(),
                },
            )
        )

    def standing(self, policy: str, period_start: datetime) -> PolicyStanding:
        """Say where a policy stands in a period; all 0 in one that nobody has spent in."""
        row = self._session.execute(_BALANCE, {"policy": policy, "period": period_start}).one()
        told = self._session.execute(
            select(
                func.coalesce(func.sum(PolicyPaceRow.prompts), 0),
                func.coalesce(func.sum(PolicyPaceRow.expected_usd), 0.0),
                func.min(PolicyPaceRow.begun_at),
            ).where(PolicyPaceRow.policy == policy, PolicyPaceRow.period_start == period_start)
        ).one()
        return PolicyStanding(
            paid=float(row.paid),
            expected=float(row.expected),
            held=float(row.reserved + row.granted),
            reserved=float(row.reserved),
            prompts=int(told[0]),
            told=float(told[1]),
            begun_at=told[2],
        )

    def pace(self, policy: str, period_start: datetime) -> Paced | None:
        """Give the lambda that was told last in a period, or ``None`` where nobody has told any."""
        row = self._session.execute(
            select(PolicyPaceRow)
            .where(PolicyPaceRow.policy == policy, PolicyPaceRow.period_start == period_start)
            .order_by(PolicyPaceRow.told_at.desc(), PolicyPaceRow.slot)
            .limit(1)
        ).scalar_one_or_none()
        if row is None:
            return None
        return Paced(error_per_usd=row.error_per_usd, slot=row.slot, told_at=row.told_at)

    def add(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add to the spend of policies: rows of ``policy_books``, of which amounts left out are 0."""
        if rows:
            self._session.execute(_ADD, {"rows": msgspec.json.encode(rows).decode()})

    def prune(self, *, before: datetime) -> None:
        """Forget the periods that began before then."""
        for row in (PolicyBookRow, PolicyPaceRow):
            self._session.execute(delete(row).where(row.period_start < before))


_BALANCE = text(
    "SELECT coalesce(sum(settled_usd + untold_usd), 0) AS paid, coalesce(sum(expected_usd), 0) AS expected, "
    "coalesce(sum(reserved_usd), 0) AS reserved, "
    "(SELECT coalesce(sum(usd - drawn_usd), 0) FROM budget_grants WHERE policy = :policy "
    "AND period_start = :period AND released_at IS NULL) AS granted "
    "FROM policy_books WHERE policy = :policy AND period_start = :period"
)
_AMOUNTS = ("replies", "settled_usd", "expected_usd", "reserved_usd", "untold_usd")
_ADD = text(
    f"INSERT INTO policy_books (policy, period_start, {', '.join(_AMOUNTS)}) "  # noqa: S608 - our own columns
    f"SELECT policy, period_start, {', '.join(f'coalesce(sum({name}), 0)' for name in _AMOUNTS)} "
    "FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    f"(policy text, period_start timestamptz, {', '.join(f'{name} numeric' for name in _AMOUNTS)}) "
    # In one order everywhere, as in the ledger.
    "GROUP BY policy, period_start ORDER BY policy, period_start "
    "ON CONFLICT (policy, period_start) DO UPDATE SET "
    + ", ".join(f"{name} = policy_books.{name} + excluded.{name}" for name in _AMOUNTS)
)
