"""What one router may still reserve of budgets: in memory, filled from Postgres a part at a time."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

import structlog
from sqlalchemy import Engine

from workers.errors import WaitableError
from workers.storage.engine import transaction
from workers.storage.grants import NANO, Grant, Grants

#: Nothing is reserved from a grant later than this after it was asked for.
LEASE_S = 60.0
#: The part of what is left of a budget that a router is lent at once. A budget of B is spent in about
#: 20 (1 + ln(B / 20 c)) grants where a prompt costs c, and what one router holds while others are refused is
#: small.
_SHARE = 1 / 20
#: A tenant that was refused, or whose budget could not be read, is not asked for again for so long.
_REFUSED_S = 1.0
#: Reservations are whole billionths of a USD, so that sums of them are exact.
_PER_USD = int(1 / NANO)

Lend = Callable[[str, date, Decimal], Grant | None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What was reserved, and from which grant (0: nothing had to be)."""

    grant: int
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Why nothing was reserved: the budget is ``spent``, or what is left of it is ``unknown`` just now."""

    reason: Literal["spent", "unknown"]


@dataclass(slots=True)
class _Purse:
    grant: int
    day: date
    #: Billionths of a USD.
    left: int
    until: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: Literal["spent", "unknown"]
    #: The least that was refused.
    units: int
    until: float


def lend_nothing(_tenant: str, _day: date, _need: Decimal) -> Grant | None:
    """Lend for a router that has no books: no budget is known."""
    raise WaitableError("the ledger", "this router has none")


class Purses:
    """Reserves from grants, and asks for one more when none has enough left: a call per grant, not prompt.

    ``lend`` takes a tenant, a UTC day and the USD needed, and gives a grant of at least that or ``None``;
    where it raises ``WaitableError`` the budget is unknown, and the prompt is not made to wait for it.
    Nothing is given back here: what is not reserved by the end of its lease returns to the budget by itself,
    and so does what was reserved for a decision that was never committed. For one thread.

    Budgets of policies are kept in the same way: the policy is the tenant, the begin of its period the day.
    """

    def __init__(
        self, lend: Lend, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lend = lend
        self._lease_s = lease_s
        self._clock = clock
        self._purses: dict[str, list[_Purse]] = {}
        #: Those that nothing is left of, by grant, the oldest first: something may be given back.
        self._empty: dict[int, _Purse] = {}
        self._refusals: dict[str, _Refusal] = {}

    def reserve(self, tenant: str, usd: float, *, day: date) -> Held | Shortage:
        """Reserve ``usd``, rounded up to a billionth, of a tenant's budget of that UTC day and its month."""
        units = math.ceil(usd * _PER_USD)
        if units == 0:
            return Held(grant=0, usd=0.0)
        purse = self._find(tenant, units, day) or self._ask(tenant, units, day)
        if isinstance(purse, Shortage):
            return purse
        purse.left -= units
        if purse.left == 0:
            self._set_aside(tenant, purse)
        return Held(grant=purse.grant, usd=units / _PER_USD)

    def greatest(self, tenant: str, *, day: date) -> float:
        """Give the most that can be reserved at once without asking."""
        now = self._clock()
        usable = (one.left for one in self._purses.get(tenant, ()) if one.day == day and one.until > now)
        return max(usable, default=0) / _PER_USD

    def give_back(self, tenant: str, held: Held, *, day: date) -> None:
        """Take back what was reserved for a decision that is not published; with its lease, if that ended."""
        purse = self._empty.pop(held.grant, None)
        if purse is not None:
            self._purses.setdefault(tenant, []).append(purse)
        for one in self._purses.get(tenant, ()):
            if one.grant == held.grant and one.day == day:
                one.left += round(held.usd * _PER_USD)

    def trim(self, tenant: str, held: Held, usd: float, *, day: date) -> Held:
        """Reserve no more than ``usd``, rounded up to a billionth, of what is held; give back the rest."""
        units, before = math.ceil(usd * _PER_USD), round(held.usd * _PER_USD)
        if units >= before:
            return held
        self.give_back(tenant, Held(grant=held.grant, usd=(before - units) / _PER_USD), day=day)
        return Held(grant=held.grant if units else 0, usd=units / _PER_USD)

    def _find(self, tenant: str, units: int, day: date) -> _Purse | None:
        now = self._clock()
        usable = [
            one for one in self._purses.get(tenant, ()) if one.day == day and one.until > now and one.left
        ]
        self._purses[tenant] = usable
        return next((one for one in usable if one.left >= units), None)

    def _set_aside(self, tenant: str, purse: _Purse) -> None:
        now = self._clock()
        ended = list(itertools.takewhile(lambda one: one.until <= now, self._empty.values()))
        for one in ended:
            del self._empty[one.grant]
        self._purses[tenant].remove(purse)
        self._empty[purse.grant] = purse

    def _ask(self, tenant: str, units: int, day: date) -> _Purse | Shortage:
        asked_at = self._clock()
        refusal = self._refusals.get(tenant)
        if (
            refusal is not None
            and refusal.until > asked_at
            and (refusal.reason == "unknown" or units >= refusal.units)
        ):
            return Shortage(reason=refusal.reason)
        try:
            grant = self._lend(tenant, day, units * NANO)
        except WaitableError as error:
            log.warning("budget_unknown", tenant=tenant, problem=str(error))
            return self._refuse(tenant, _Refusal("unknown", units, self._clock() + _REFUSED_S))
        if grant is None:
            return self._refuse(tenant, _Refusal("spent", units, self._clock() + _REFUSED_S))
        # From the asking, not from the answer: the lease in the books ends no sooner.
        purse = _Purse(grant.id, grant.day, int(grant.usd / NANO), asked_at + self._lease_s)
        self._purses[tenant].append(purse)
        return purse

    def _refuse(self, tenant: str, refusal: _Refusal) -> Shortage:
        self._refusals[tenant] = refusal
        return Shortage(reason=refusal.reason)


class Lender:
    """Lends to one router from the books in Postgres.

    ``slot`` names the router among those of the installation; what an earlier process of that name was lent
    is claimed back at the start. The engine's statements should have short time limits: prompts wait for
    them.
    """

    def __init__(self, engine: Engine, *, slot: str, lease_s: float = LEASE_S, share: float = _SHARE) -> None:
        self._engine = engine
        self._slot = slot
        self._lease_s = lease_s
        self._share = share

    def __call__(self, tenant: str, day: date, need: Decimal) -> Grant | None:
        """Lend a part of what is left of a tenant's budget; ``None`` where ``need`` is not left."""
        with transaction(self._engine) as session:
            return Grants(session).grant(
                tenant, slot=self._slot, day=day, need=need, share=self._share, lease_s=self._lease_s
            )

    def claim_back(self) -> None:
        """End every lease of this router, at its start and at its end; ``WaitableError`` passes through."""
        with transaction(self._engine) as session:
            Grants(session).expire(self._slot)
