"""Spends the budgets of policies evenly: lambda follows the spending, under what Postgres has lent."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy import Engine

from routing.policies import Pacing, PacingState
from workers.errors import WaitableError
from workers.messages import Pace
from workers.policies import Budget
from workers.storage.engine import transaction
from workers.storage.policy_spend import Lent, PolicySpend

#: The part of what is left that a router is lent at once: what a router that dies may leave unspent.
_SHARE = 1 / 100
#: Routers hear of each other's spending at least so often.
_REFRESH_S = 10.0
#: How long a bank that could not be asked is let alone, so that not every batch waits for it.
_SILENCE_S = 1.0
#: Prompts a second before any were counted, and the seconds of counting that this belief is worth.
_PRIOR_RATE, _PRIOR_SECONDS = 1.0, 60.0
#: Lambda before anything is known: a prompt that costs what it may weighs as much as an error of .2.
_START = 0.2

log = structlog.get_logger(__name__)


class Bank(Protocol):
    """Lends of a budget; ``WaitableError`` while it cannot be asked."""

    def __call__(
        self, policy: str, budget: Budget, period_start: datetime, *, need_usd: float, prompts: int
    ) -> Lent:
        """Lend at least ``need_usd``, or nothing, and note ``prompts`` more that were decided."""
        ...


@dataclass(slots=True)
class _Account:
    """One policy in one period."""

    period_start: datetime
    #: When prompts were first counted here, and the rate that was believed then.
    since: datetime
    prior_rate: float
    state: PacingState
    #: USD that were lent and are not spent.
    left_usd: float = 0.0
    #: USD that were lent to all routers.
    total_usd: float = 0.0
    #: Prompts that all routers have decided since then, and those of the period before it.
    prompts: int = 0
    earlier: int | None = None
    #: Prompts decided here that nobody was told of.
    untold: int = 0
    asked_at: float = -math.inf
    #: The bank could not be asked: it is not asked again before.
    silent_until: float = -math.inf


class Pacers:
    """Keeps the pace of each policy that spends a budget. For one thread.

    Spending is what decisions were expected to cost. Where the bank cannot be asked what was lent is spent,
    and no more.
    """

    def __init__(self, bank: Bank, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bank = bank
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def open(self, policy: str, budget: Budget, now: datetime) -> Pace:
        """Give what the next batch of a policy is decided by: lambda, and what is lent and left."""
        account = self._find(policy, budget, now)
        if self._clock() - account.asked_at >= _REFRESH_S:
            self._ask(policy, budget, account, 0.0)
        return Pace(error_per_usd=account.state.error_per_usd, remaining_usd=account.left_usd, spent_usd=0.0)

    def extend(self, policy: str, budget: Budget, need_usd: float, now: datetime) -> Pace:
        """Ask for ``need_usd`` more than is left, for a batch that would cost more; ``open`` again."""
        account = self._find(policy, budget, now)
        self._ask(policy, budget, account, need_usd)
        return Pace(error_per_usd=account.state.error_per_usd, remaining_usd=account.left_usd, spent_usd=0.0)

    def spend(self, policy: str, budget: Budget, costs_usd: Sequence[float], now: datetime) -> None:
        """Take what a batch is expected to cost off what is left, and move lambda."""
        account = self._find(policy, budget, now)
        account.left_usd = max(account.left_usd - math.fsum(costs_usd), 0.0)
        account.untold += len(costs_usd)
        account.prompts += len(costs_usd)
        target = _target(account, budget, now)
        account.state = Pacing(target_usd=target).advance(account.state, costs_usd)

    def _find(self, policy: str, budget: Budget, now: datetime) -> _Account:
        start = period_start(budget, now)
        account = self._accounts.get(policy)
        if account is None:
            idle = PacingState(error_per_usd=0.0, mean_cost_usd=0.0)
            account = _Account(period_start=start, since=now, prior_rate=_PRIOR_RATE, state=idle)
            target = _target(account, budget, now)
            first = _START / target if budget.error_per_usd is None else budget.error_per_usd
            account.state = Pacing(target_usd=target).start(first)
        elif account.period_start != start:
            rate = _rate(account, now)
            account = _Account(period_start=start, since=now, prior_rate=rate, state=account.state)
        self._accounts[policy] = account
        return account

    def _ask(self, policy: str, budget: Budget, account: _Account, need_usd: float) -> None:
        account.asked_at = self._clock()
        if account.asked_at < account.silent_until:
            return
        try:
            lent = self._bank(policy, budget, account.period_start, need_usd=need_usd, prompts=account.untold)
        except WaitableError as error:
            log.warning("budget_unknown", policy=policy, problem=str(error))
            account.silent_until = self._clock() + _SILENCE_S
            return
        if account.earlier is None:
            account.earlier = lent.prompts - account.untold
        account.untold = 0
        account.left_usd += lent.usd
        account.total_usd, account.prompts = lent.total_usd, lent.prompts - account.earlier


class PostgresBank:
    """Lends to the router of one slot from the books in Postgres."""

    def __init__(self, engine: Engine, *, slot: str) -> None:
        self._engine = engine
        self._slot = slot

    def __call__(
        self, policy: str, budget: Budget, period_start: datetime, *, need_usd: float, prompts: int
    ) -> Lent:
        """Lend at least ``need_usd``, or nothing, and note the prompts."""
        with transaction(self._engine) as session:
            return PolicySpend(session).lend(
                policy,
                period_start,
                slot=self._slot,
                budget_usd=budget.usd,
                need_usd=need_usd,
                share=_SHARE,
                prompts=prompts,
            )


class Books:
    """Lends to the routers of one process, or to none that lives: for what only tries a budget out."""

    def __init__(self) -> None:
        self._lent: dict[tuple[str, datetime], Lent] = {}

    def __call__(
        self, policy: str, budget: Budget, period_start: datetime, *, need_usd: float, prompts: int
    ) -> Lent:
        """Lend at least ``need_usd``, or all that is left, and note the prompts."""
        before = self._lent.get((policy, period_start), Lent(usd=0.0, total_usd=0.0, prompts=0))
        left = max(budget.usd - before.total_usd, 0.0)
        usd = min(left, max(need_usd, left * _SHARE)) if need_usd > 0 else 0.0
        lent = Lent(usd=usd, total_usd=before.total_usd + usd, prompts=before.prompts + prompts)
        self._lent[policy, period_start] = lent
        return lent


def lend_all(policy: str, budget: Budget, period_start: datetime, *, need_usd: float, prompts: int) -> Lent:  # noqa: ARG001
    """Lend whatever is asked for: for a router that shares its budget with nobody, and keeps no books."""
    return Lent(usd=need_usd, total_usd=0.0, prompts=prompts)


def period_start(budget: Budget, now: datetime) -> datetime:
    """Give the begin of the UTC hour or day that a moment is in."""
    seconds = math.floor(now.timestamp() / budget.period_s) * budget.period_s
    return datetime.fromtimestamp(seconds, tz=UTC)


def _rate(account: _Account, now: datetime) -> float:
    """Give the prompts a second that all routers decide, by what was counted and believed before."""
    seconds = (now - account.since).total_seconds()
    return (account.prior_rate * _PRIOR_SECONDS + account.prompts) / (_PRIOR_SECONDS + max(seconds, 0.0))


def _target(account: _Account, budget: Budget, now: datetime) -> float:
    """Give what a prompt may cost from now on for the period to come out even at the rate of now."""
    end = account.period_start + timedelta(seconds=budget.period_s)
    left_s = max((end - now).total_seconds(), 0.0)
    left_usd = max(budget.usd - account.total_usd, 0.0) + account.left_usd
    return max(left_usd, budget.usd * 1e-9) / max(_rate(account, now) * left_s, 1.0)
