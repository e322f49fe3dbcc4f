"""Who keeps the books of policies' budgets: Postgres, or one process's memory for what is only tried out."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Engine

from workers.router.pacing import Account, Reserved, Told
from workers.storage.engine import transaction
from workers.storage.grants import NANO, Grant
from workers.storage.policy_books import PolicyBooks, PolicyStanding
from workers.tenants.purses import LEASE_S
from workers.tenants.returns import GRACE_S

#: Seconds after which a grant's rest is back at the earliest.
_BACK_S = LEASE_S + GRACE_S


class PostgresBank:
    """Lends to the router of one slot from the books in Postgres.

    What was lent comes back as tenants' grants do: leases end, and an earlier process's are claimed back
    (``workers.tenants``).
    """

    def __init__(self, engine: Engine, *, slot: str) -> None:
        self._engine = engine
        self._slot = slot

    def lend(self, account: Account, need: Decimal, share: float) -> Grant | None:
        """Lend ``share`` of what is left, at least ``need``; ``None`` where that is not left."""
        with transaction(self._engine) as session:
            return PolicyBooks(session).grant(
                account.policy,
                account.period_start,
                slot=self._slot,
                budget=account.lendable_usd,
                need=need,
                share=share,
                lease_s=LEASE_S,
            )

    def tell(self, account: Account, told: Told) -> PolicyStanding:
        """Note what was decided, and say where all routers together stand."""
        with transaction(self._engine) as session:
            books = PolicyBooks(session)
            if told.prompts or told.expected_usd:
                books.tell(
                    account.policy,
                    account.period_start,
                    slot=self._slot,
                    prompts=told.prompts,
                    expected_usd=told.expected_usd,
                    error_per_usd=told.error_per_usd,
                )
            return books.standing(account.policy, account.period_start)


@dataclass(slots=True)
class _Lent:
    """A grant."""

    since: float
    usd: Decimal


@dataclass(slots=True)
class _Book:
    #: Grants whose rest is not back yet, less what was drawn from them.
    grants: dict[int, _Lent] = field(default_factory=dict)
    reserved: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    expected: float = 0.0
    prompts: int = 0
    told: float = 0.0

    @property
    def held(self) -> Decimal:
        return self.reserved + sum((one.usd for one in self.grants.values()), Decimal(0))


class Books:
    """Keeps the books of all routers of one process in its memory: for what only tries a budget out.

    As in Postgres, a grant's rest comes back some time after its lease has ended.
    """

    def __init__(self, *, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._clock = clock
        self._books: dict[tuple[str, datetime], _Book] = {}
        self._numbers = itertools.count(1)

    def lend(self, account: Account, need: Decimal, share: float) -> Grant | None:
        """Lend ``share`` of what is left, at least ``need``; ``None`` where that is not left."""
        book = self._find(account.policy, account.period_start)
        now = self._clock()
        for number in [number for number, one in book.grants.items() if one.since + _BACK_S <= now]:
            del book.grants[number]
        left = account.lendable_usd - book.held - book.paid
        if left < need:
            return None
        grant = Grant(
            id=next(self._numbers),
            day=account.period_start,
            usd=max(need, (left * Decimal(share)).quantize(NANO)),
        )
        book.grants[grant.id] = _Lent(since=now, usd=grant.usd)
        return grant

    def tell(self, account: Account, told: Told) -> PolicyStanding:
        """Note what was decided, and say where all routers together stand."""
        book = self._find(account.policy, account.period_start)
        book.prompts += told.prompts
        book.told += told.expected_usd
        return PolicyStanding(
            paid=float(book.paid),
            expected=book.expected,
            held=float(book.held),
            prompts=book.prompts,
            told=book.told,
        )

    def reserve(self, reserved: Reserved) -> None:
        """Book what a decision reserved."""
        book, usd = self._find(reserved.policy, reserved.period_start), Decimal(repr(reserved.held.usd))
        book.reserved += usd
        if (grant := book.grants.get(reserved.held.grant)) is not None:
            grant.usd -= usd

    def settle(self, reserved: Reserved, cost_usd: float) -> None:
        """Book what a call came to, in place of what was reserved for it."""
        book = self._find(reserved.policy, reserved.period_start)
        book.reserved -= Decimal(repr(reserved.held.usd))
        book.paid += Decimal(repr(cost_usd))
        book.expected += reserved.expected_usd

    def _find(self, policy: str, period_start: datetime) -> _Book:
        return self._books.setdefault((policy, period_start), _Book())
