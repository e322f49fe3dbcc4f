"""What is lent to routers of tenants' budgets; ``workers.storage.ledger`` says what always holds."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from workers.storage.tables import GrantRow, TenantRow

#: Budgets are lent and reserved in billionths of a USD.
NANO = Decimal("1e-9")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A part of a tenant's budget that a router may reserve from until the lease ends."""

    id: int
    day: date
    usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Where a tenant stands in one period; USD."""

    budget: Decimal | None
    #: In open grants, not yet reserved by a booked decision.
    granted: Decimal
    reserved: Decimal
    settled: Decimal
    #: Reserved for answers whose cost is not known, and taken for spent.
    untold: Decimal
    #: Of what is settled, that of prompts that the budget did not cover and that were answered all the same.
    degraded: Decimal = Decimal(0)

    @property
    def remaining(self) -> Decimal | None:
        """What can still be granted, below 0 where calls cost more than was reserved; ``None``: no budget."""
        if self.budget is None:
            return None
        return self.budget - self.granted - self.reserved - self.settled - self.untold


class Grants:
    """Lends parts of budgets, and takes back what was not reserved."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def grant(
        self, tenant: str, *, slot: str, day: date, need: Decimal, share: float, lease_s: float
    ) -> Grant | None:
        """Lend ``share`` of what is left of the budget, at least ``need``; ``None`` where that is not left.

        Nothing may be reserved from it after ``lease_s`` seconds or for another UTC day than ``day``. The
        tenant's row stays locked until the transaction ends, so that no two grants see the same remainder.
        ``None`` too for a tenant that is not declared or has no budget.
        """
        budget = self._session.execute(
            select(TenantRow.usd_per_day, TenantRow.usd_per_month)
            .where(TenantRow.name == tenant)
            .with_for_update()
        ).one_or_none()
        if budget is None or budget == (None, None):
            return None
        # A statement of its own: only one that begins after the lock was got sees every earlier grant.
        balances = self.balances(tenant, day=day, budgets=(budget[0], budget[1]))
        left = min(one.remaining for one in balances if one.remaining is not None)
        need = need.quantize(NANO, rounding=ROUND_CEILING)
        if left < need:
            return None
        row = GrantRow(
            tenant=tenant,
            day=day,
            slot=slot,
            usd=max(need, (left * Decimal(share)).quantize(NANO)),
            expires_at=func.now() + timedelta(seconds=lease_s),
        )
        self._session.add(row)
        self._session.flush()
        return Grant(id=row.id, day=day, usd=row.usd)

    def balances(
        self, tenant: str, *, day: date, budgets: tuple[float | None, float | None]
    ) -> tuple[Balance, Balance]:
        """Give where a tenant stands on a day and in its month; ``budgets`` are those of day and month."""
        values = {"tenant": tenant, "day": day, "month": day.replace(day=1)}
        row = self._session.execute(_BALANCES, values).one()
        names = ("granted", "reserved", "settled", "untold", "degraded")
        of_day = Balance(budget=_exact(budgets[0]), **dict(zip(names, row[::2], strict=True)))
        of_month = Balance(budget=_exact(budgets[1]), **dict(zip(names, row[1::2], strict=True)))
        return of_day, of_month

    def expire(self, slot: str) -> None:
        """End the leases of all that was lent to a router: it has stopped, or starts anew."""
        self._session.execute(
            update(GrantRow)
            .where(GrantRow.slot == slot, GrantRow.released_at.is_(None), GrantRow.expires_at > func.now())
            .values(expires_at=func.now())
            .execution_options(synchronize_session=False)
        )

    def count_expired(self, *, before: datetime) -> int:
        """Count the grants whose leases ended before then and whose rest is not back yet."""
        found = select(func.count()).where(GrantRow.released_at.is_(None), GrantRow.expires_at < before)
        return self._session.scalar(found) or 0

    def release(self, *, before: datetime) -> int:
        """Give back what is left of the grants whose leases ended before then; give their number.

        The caller has seen to it that every entry that may draw on them is booked.
        """
        gone = self._session.scalars(
            update(GrantRow)
            .where(GrantRow.released_at.is_(None), GrantRow.expires_at < before)
            .values(released_at=func.now())
            .returning(GrantRow.id)
            .execution_options(synchronize_session=False)
        )
        return len(gone.all())

    def now(self) -> datetime:
        """Give the time by the database's clock, which all leases go by."""
        found: datetime = self._session.execute(select(func.clock_timestamp())).scalar_one()
        return found


def _exact(usd: float | None) -> Decimal | None:
    return None if usd is None else Decimal(repr(usd))


_BALANCES = text(
    "WITH spent AS (SELECT day, reserved_usd, settled_usd, untold_usd, degraded_usd FROM tenant_spend "
    "WHERE tenant = :tenant AND day >= :month AND day < CAST(:month AS date) + interval '1 month'), "
    "lent AS (SELECT day, usd - drawn_usd AS usd FROM budget_grants "
    "WHERE tenant = :tenant AND released_at IS NULL AND day >= :month "
    "AND day < CAST(:month AS date) + interval '1 month') "
    "SELECT (SELECT coalesce(sum(usd) FILTER (WHERE day = :day), 0) FROM lent), "
    "(SELECT coalesce(sum(usd), 0) FROM lent), "
    "(SELECT coalesce(sum(reserved_usd) FILTER (WHERE day = :day), 0) FROM spent), "
    "(SELECT coalesce(sum(reserved_usd), 0) FROM spent), "
    "(SELECT coalesce(sum(settled_usd) FILTER (WHERE day = :day), 0) FROM spent), "
    "(SELECT coalesce(sum(settled_usd), 0) FROM spent), "
    "(SELECT coalesce(sum(untold_usd) FILTER (WHERE day = :day), 0) FROM spent), "
    "(SELECT coalesce(sum(untold_usd), 0) FROM spent), "
    "(SELECT coalesce(sum(degraded_usd) FILTER (WHERE day = :day), 0) FROM spent), "
    "(SELECT coalesce(sum(degraded_usd), 0) FROM spent)"
)
