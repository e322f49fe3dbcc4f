"""The books of tenants' budgets: what is lent to routers, reserved by decisions, and settled by usage.

For every tenant, and for the UTC day and the UTC month alike,

    settled + untold + reserved + lent  <=  budget + excess

where *settled* is the sum of the replies' costs, *untold* what calls are estimated to have cost of which the
endpoint told no usage (an answer of which nothing is known, at least what was reserved for it), *reserved*
that of the committed decisions whose usage is not booked yet, and *lent* what open grants hold that no booked
decision has drawn. A grant is made only out of what the left side leaves of the budget, under a lock on the
tenant. So *excess* comes from one thing alone, calls that cost more than was reserved for them. It is at most
the sum of cost - reservation over the prompts that were in flight when the last grant was made, or were
decided out of grants that were open then: afterwards nothing is lent. (An operator who lowers a budget below
the left side is obeyed within a lease.)

Everything that moves money is in the usage topic, which the learner books in one database transaction, each
entry once:

- A decision reserves from its router's grant in memory, and says so in an entry that is committed with the
  decision. So a transaction that is aborted, or a batch that is decided again, has reserved nothing here;
  what the router's memory lost to it comes back with the rest of the grant.
- The executor's entry, committed with the reply, settles the reservation at its true cost: less, more, or
  nothing for an error reply that cost nothing.
- A router that dies takes nothing along: what it committed is in the topic, and the rest of its grants is
  released once their leases have ended and all of the topic up to then is booked (``workers.tenants``).
- Usage that never comes (a dispatch that became a dead letter) is written off when no executor can answer it
  any more.

A decision belongs to the UTC day and month in which it was made, whenever it is answered.

The same holds, by the same entries, of every policy that spends a budget, for the UTC hour or day it is for
(``workers.storage.policy_books``).
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from workers.storage.policy_books import PolicyBooks
from workers.storage.tables import GrantRow, ReservationRow, SpendRow, UsageEntryRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """An entry that says what a committed decision reserved of its tenant's budget, its policy's, or both."""

    decision_id: str
    decided_at: int
    tenant: str
    llm: str
    #: 0: nothing was reserved of the tenant's budget.
    grant: int
    usd: float
    #: Likewise of the policy's, in the period that began then (Unix time).
    policy: str = ""
    period: int = 0
    policy_grant: int = 0
    policy_usd: float = 0.0

    @property
    def entry(self) -> UUID:
        """What tells it from all other entries."""
        return _key(self.decided_at, "reservation", self.decision_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """An entry that says what a dispatch came to."""

    usage_id: str
    decision_id: str
    decided_at: int
    tenant: str
    llm: str
    failed: bool
    #: ``None`` where no call told its usage.
    usd: float | None
    input_tokens: int
    output_tokens: int
    #: USD that calls are estimated to have cost of which the endpoint told no usage; beside ``usd``.
    unsettled_usd: float = 0.0
    #: Whether the tenant's budget did not cover it.
    degraded: bool = False
    #: Where the policy that decided spends a budget: its name, the begin of the period (Unix time, 0 where it
    #: spends none), and what the decision expected.
    policy: str = ""
    period: int = 0
    expected_usd: float = 0.0

    @property
    def entry(self) -> UUID:
        """What tells it from all other entries: a decision that is redriven is settled for each dispatch."""
        return _key(self.decided_at, "usage", self.decision_id, self.usage_id)


Entry = Reservation | Settlement
#: What is to be added to the spend of a tenant (``tenant``) or of a policy (``policy``).
_Change = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMSpend:
    """What a tenant used of one LLM in a period."""

    llm: str
    replies: int
    failures: int
    #: Answers whose cost is not known, because the endpoint told no usage.
    untold: int
    input_tokens: int
    output_tokens: int
    settled: Decimal
    #: Replies to prompts beyond the budget, and what they cost; part of the above.
    degraded: int
    degraded_usd: Decimal


class Ledger:
    """Reservations and spend; the module says what always holds."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def spend(self, tenant: str, *, since: date, until: date) -> list[LLMSpend]:
        """Give what was used of each LLM, by name, in the days from ``since`` to ``until``."""
        totals = [
            func.sum(column)
            for column in (
                SpendRow.replies,
                SpendRow.failures,
                SpendRow.untold,
                SpendRow.input_tokens,
                SpendRow.output_tokens,
                SpendRow.settled_usd,
                SpendRow.degraded,
                SpendRow.degraded_usd,
            )
        ]
        rows = self._session.execute(
            select(SpendRow.llm, *totals)
            .where(SpendRow.tenant == tenant, SpendRow.day.between(since, until))
            .group_by(SpendRow.llm)
            .order_by(SpendRow.llm)
        )
        return [
            LLMSpend(
                llm=llm,
                replies=int(counts[0]),
                failures=int(counts[1]),
                untold=int(counts[2]),
                input_tokens=int(counts[3]),
                output_tokens=int(counts[4]),
                settled=counts[5],
                degraded=int(counts[6]),
                degraded_usd=counts[7],
            )
            for llm, *counts in rows
        ]

    def totals(self, tenant: str) -> tuple[int, Decimal, Decimal]:
        """Give the replies that a tenant ever had, and its USD that are reserved and settled."""
        row = self._session.execute(
            select(
                func.coalesce(func.sum(SpendRow.replies), 0),
                func.coalesce(func.sum(SpendRow.reserved_usd), 0),
                func.coalesce(func.sum(SpendRow.settled_usd), 0),
            ).where(SpendRow.tenant == tenant)
        ).one()
        return int(row[0]), row[1], row[2]

    def tenants_seen(self) -> tuple[str, ...]:
        """Give the names of all who ever spent anything."""
        return tuple(sorted(self._session.scalars(select(SpendRow.tenant).distinct())))

    def book(self, entries: Collection[Entry]) -> set[UUID]:
        """Book what is new, each entry once however often it comes, and give the keys of exactly that."""
        offered = {one.entry: one for one in entries}
        if not offered:
            return set()
        fresh = set(
            self._session.scalars(_NEW_ENTRIES, {"entries": sorted(offered)})  # sorted: no deadlocks
        )
        booked = [one for key, one in offered.items() if key in fresh]
        changes = [
            *self._reserve([one for one in booked if isinstance(one, Reservation)]),
            *self._settle([one for one in booked if isinstance(one, Settlement)]),
        ]
        self._add(changes)
        return fresh

    def write_off(self, *, before: datetime) -> int:
        """Give back what decisions of before then reserved and nobody settled; give their number."""
        rows = self._session.execute(
            delete(ReservationRow)
            .where(ReservationRow.decision < _first_key(before))
            .returning(
                ReservationRow.tenant,
                ReservationRow.policy,
                ReservationRow.period_start,
                ReservationRow.day,
                ReservationRow.llm,
                ReservationRow.usd,
            )
            .execution_options(synchronize_session=False)
        ).all()
        self._add([_give_back(row) for row in rows])
        return len(rows)

    def prune(self, *, before: datetime) -> int:
        """Forget which entries of before then were booked, and grants released by then; count the entries."""
        self._session.execute(delete(GrantRow).where(GrantRow.released_at < before))
        gone = delete(UsageEntryRow).where(UsageEntryRow.entry < _first_key(before))
        return self._session.execute(gone).rowcount  # type: ignore[attr-defined,no-any-return]

    def _add(self, changes: Sequence[_Change]) -> None:
        """Add to the spend of tenants and of policies."""
        rows = [change for change in changes if "tenant" in change]
        if rows:
            self._session.execute(_ADD_SPEND, {"rows": _json(rows)})
        PolicyBooks(self._session).add([change for change in changes if "policy" in change])

    def _reserve(self, reservations: Sequence[Reservation]) -> list[_Change]:
        rows = [row for one in reservations for row in _accounts(one)]
        if rows:
            values = {"rows": _json(rows)}
            self._session.execute(_ADD_RESERVATIONS, values)
            self._session.execute(_DRAW, values)
        return [
            *(
                _spend(one.tenant, _day(one.decided_at), one.llm, reserved=one.usd)
                for one in reservations
                if one.grant
            ),
            *(
                {"policy": one.policy, "period_start": _moment(one.period), "reserved_usd": one.policy_usd}
                for one in reservations
                if one.policy_grant
            ),
        ]

    def _settle(self, settlements: Sequence[Settlement]) -> list[_Change]:
        if not settlements:
            return []
        told = {
            key: one.failed or one.usd is not None
            for one in settlements
            for key in (_key(one.decided_at, one.decision_id), _policy_key(one.decided_at, one.decision_id))
        }
        gone = self._session.execute(_TAKE_RESERVATIONS, {"decisions": sorted(told)}).all()
        # What is kept of the reservations for want of a cost covers as much of the estimate.
        kept = {row.decision: float(row.usd) for row in gone if not told[row.decision]}
        return [
            *(_give_back(row, untold=not told[row.decision]) for row in gone),
            *(_settle_tenant(one, kept) for one in settlements),
            *(_settle_policy(one, kept) for one in settlements if one.period),
        ]


def _accounts(one: Reservation) -> list[_Change]:
    """Give the rows of what a decision reserved, one for each budget that it reserved from."""
    shared: _Change = {"day": _day(one.decided_at), "llm": one.llm}
    rows: list[_Change] = []
    if one.grant:
        key = str(_key(one.decided_at, one.decision_id))
        rows.append({**shared, "decision": key, "tenant": one.tenant, "usd": one.usd, "lent_by": one.grant})
    if one.policy_grant:
        rows.append(
            {
                **shared,
                "decision": str(_policy_key(one.decided_at, one.decision_id)),
                "policy": one.policy,
                "period_start": _moment(one.period),
                "usd": one.policy_usd,
                "lent_by": one.policy_grant,
            }
        )
    return rows


def _give_back(row: Any, *, untold: bool = False) -> _Change:  # noqa: ANN401  # a row of reservations
    """Take a reservation off the books; what was ``untold`` counts as spent."""
    if row.policy is None:
        return _spend(row.tenant, row.day, row.llm, reserved=-row.usd, untold_usd=row.usd if untold else 0)
    return {
        "policy": row.policy,
        "period_start": row.period_start,
        "reserved_usd": -row.usd,
        "untold_usd": row.usd if untold else 0,
    }


def _settle_tenant(one: Settlement, kept: Mapping[UUID, float]) -> _Change:
    return _spend(
        one.tenant,
        _day(one.decided_at),
        one.llm,
        settled=one.usd or 0,
        untold_usd=max(0.0, one.unsettled_usd - kept.get(_key(one.decided_at, one.decision_id), 0.0)),
        degraded_usd=(one.usd or 0) if one.degraded else 0,
        replies=1,
        failures=int(one.failed),
        untold=int(one.usd is None and not one.failed),
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        degraded=int(one.degraded),
    )


def _settle_policy(one: Settlement, kept: Mapping[UUID, float]) -> _Change:
    return {
        "policy": one.policy,
        "period_start": _moment(one.period),
        "replies": 1,
        "settled_usd": one.usd or 0,
        "untold_usd": max(
            0.0, one.unsettled_usd - kept.get(_policy_key(one.decided_at, one.decision_id), 0.0)
        ),
        "expected_usd": one.expected_usd,
    }


def _spend(
    tenant: str,
    day: date,
    llm: str,
    *,
    settled: float = 0,
    reserved: float | Decimal = 0,
    untold_usd: float | Decimal = 0,
    degraded_usd: float = 0,
    **counts: int,
) -> _Change:
    return {
        "tenant": tenant,
        "day": day,
        "llm": llm,
        "settled_usd": settled,
        "reserved_usd": reserved,
        "untold_usd": untold_usd,
        "degraded_usd": degraded_usd,
        **dict.fromkeys(_COUNTS, 0),
        **counts,
    }


def _key(decided_at: int, *parts: str) -> UUID:
    """Hash what tells two things apart. Later decisions have greater keys: an index grows at its end."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return UUID(bytes=decided_at.to_bytes(4, "big") + digest[:12])


def _policy_key(decided_at: int, decision_id: str) -> UUID:
    """Give the key of what a decision reserved of its policy's budget, beside that of its tenant's."""
    return _key(decided_at, "policy", decision_id)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _first_key(moment: datetime) -> UUID:
    return UUID(bytes=int(moment.timestamp()).to_bytes(4, "big") + bytes(12))


def _day(decided_at: int) -> date:
    return datetime.fromtimestamp(decided_at, tz=UTC).date()


def _json(rows: Sequence[_Change]) -> str:
    return msgspec.json.encode(rows).decode()


_COUNTS = ("replies", "failures", "untold", "input_tokens", "output_tokens", "degraded")
_ADDED = ("settled_usd", "reserved_usd", "untold_usd", "degraded_usd", *_COUNTS)

_NEW_ENTRIES = text(
    "INSERT INTO usage_entries (entry) SELECT unnest(CAST(:entries AS uuid[])) "
    "ON CONFLICT DO NOTHING RETURNING entry"
)
_ADD_SPEND = text(
    f"INSERT INTO tenant_spend (tenant, day, llm, {', '.join(_ADDED)}) "  # noqa: S608 - our own columns
    f"SELECT tenant, day, llm, {', '.join(f'sum({name})' for name in _ADDED)} "
    "FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    f"(tenant text, day date, llm text, {', '.join(f'{name} numeric' for name in _ADDED)}) "
    # In one order everywhere, so that learners side by side wait for each other and never deadlock.
    "GROUP BY tenant, day, llm ORDER BY tenant, day, llm "
    "ON CONFLICT (tenant, day, llm) DO UPDATE SET "
    + ", ".join(f"{name} = tenant_spend.{name} + excluded.{name}" for name in _ADDED)
)
_ADD_RESERVATIONS = text(
    "INSERT INTO budget_reservations (decision, tenant, policy, period_start, day, llm, usd) "
    "SELECT decision, tenant, policy, period_start, day, llm, usd "
    "FROM json_to_recordset(CAST(:rows AS json)) AS rows (decision uuid, tenant text, policy text, "
    "period_start timestamptz, day date, llm text, usd numeric) ORDER BY decision ON CONFLICT DO NOTHING"
)
_DRAW = text(
    "WITH drawn AS (SELECT lent_by, sum(usd) AS usd FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    "(lent_by bigint, usd numeric) GROUP BY lent_by), "
    "locked AS (SELECT id FROM budget_grants WHERE id IN (SELECT lent_by FROM drawn) "
    "ORDER BY id FOR NO KEY UPDATE) "
    "UPDATE budget_grants SET drawn_usd = drawn_usd + drawn.usd FROM drawn, locked "
    "WHERE budget_grants.id = drawn.lent_by AND locked.id = drawn.lent_by"
)
_TAKE_RESERVATIONS = text(
    "DELETE FROM budget_reservations WHERE decision = ANY(CAST(:decisions AS uuid[])) "
    "RETURNING decision, tenant, policy, period_start, day, llm, usd"
)
