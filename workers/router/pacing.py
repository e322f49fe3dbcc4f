"""Spends the budgets of policies evenly, each at the lambda that the rest affords, and never beyond them."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Literal, Protocol, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from routing.policies import (
    Candidates,
    Choices,
    LoggedDraws,
    Policy,
    Randomised,
    Standing,
    UniformSource,
    keep_on_trial,
    pace_spending,
    reservable,
)
from workers.errors import WaitableError
from workers.messages import Pace
from workers.policies import Budget
from workers.router.recent import RecentPrompts
from workers.storage.grants import Grant
from workers.storage.policy_books import PolicyStanding
from workers.tenants import Held, Purses, Shortage
from workers.tenants.purses import LEASE_S

#: Routers tell of their pace, and hear of each other's, at least so often.
_REFRESH_S = 2.0
#: How long a bank that could not be asked is let alone, so that not every batch waits for it.
_SILENCE_S = 1.0
#: Prompts a second before any were counted, and the seconds of counting that this belief is worth.
_PRIOR_RATE, _PRIOR_SECONDS = 1.0, 10.0
#: Prompts of its own that a router has seen before it leaves the lambda that a policy starts with.
_KNOWN = 30
#: What is held back from each budget: for the calls in flight at the end that cost more than was reserved.
HELD_BACK = 0.002
#: The part of what is left that a router is lent at once, at most; what a lease's time takes at an even pace.
_SHARE = 1 / 20
#: So near to the end of a period, what is lent and not used comes back too late: less is lent.
_END_S, _END_SHARE = 2 * LEASE_S, 1 / 50

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a bank keeps: a policy's budget for one period."""

    policy: str
    budget: Budget
    period_start: datetime

    @property
    def lendable_usd(self) -> Decimal:
        """What may be lent at all."""
        return Decimal(repr(self.budget.usd)) * Decimal(repr(1 - HELD_BACK))


@dataclass(slots=True)
class Told:
    """What a router has decided since it last told."""

    prompts: int = 0
    expected_usd: float = 0.0
    #: Lambda of the last of them.
    error_per_usd: float = 0.0


class Bank(Protocol):
    """Keeps the books of policies; ``WaitableError`` while it cannot be asked."""

    def lend(self, account: Account, need: Decimal, share: float) -> Grant | None:
        """Lend ``share`` of what is left, at least ``need``; ``None`` where that is not left."""
        ...

    def tell(self, account: Account, told: Told) -> PolicyStanding:
        """Note what was decided, and say where all routers together stand."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What a decision holds of its policy's budget."""

    policy: str
    period_start: datetime
    held: Held
    expected_usd: float


@dataclass(slots=True)
class _State:
    """One policy in one period, as one router knows it."""

    account: Account
    #: Since when prompts are counted, and the rate that was believed then.
    since: datetime
    prior_rate: float
    standing: PolicyStanding = field(default_factory=PolicyStanding)
    #: What nobody was told of.
    told: Told = field(default_factory=Told)
    asked_at: float = -math.inf
    #: When any prompt was told of.
    told_at: float = -math.inf
    #: The bank could not be asked: it is not asked again before.
    silent_until: float = -math.inf

    def rate(self, now: datetime) -> float:
        """Give the prompts a second that all routers decide, by what was counted and believed before."""
        since = min(self.since, self.standing.begun_at or self.since)
        seconds = max((now - since).total_seconds(), 0.0)
        prompts = self.standing.prompts + self.told.prompts
        return (self.prior_rate * _PRIOR_SECONDS + prompts) / (_PRIOR_SECONDS + seconds)

    def left_s(self, now: datetime) -> float:
        """Give the seconds until the period ends."""
        end = self.account.period_start + timedelta(seconds=self.account.budget.period_s)
        return max((end - now).total_seconds(), 0.0)

    def stand(self) -> Standing:
        """Give where the budget stands, with what this router has decided since it last heard.

        What was told and never committed can be settled by nobody; no more of it is believed than is held.
        """
        known = self.standing
        pending = min(max(known.told - known.expected, 0.0), known.held)
        return Standing(
            paid_usd=known.paid,
            expected_usd=known.expected,
            pending_usd=pending + self.told.expected_usd,
            prompts=known.prompts + self.told.prompts,
        )


class Pacers:
    """Keeps the pace of each policy that spends a budget. For one thread.

    Lambda is looked up in what the router's own recent prompts would have cost at each, for what is left of
    the budget per prompt to come; what prompts turned out to cost is what counts, as soon as it is settled.
    Each decision reserves what its call hardly exceeds from what the bank has lent. Where the bank cannot be
    asked, what was lent is spent until its lease ends, and no more.
    """

    def __init__(self, bank: Bank, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bank = bank
        self._clock = clock
        self._purses = Purses(self._lend, clock=clock)
        self._states: dict[str, _State] = {}
        self._recent: dict[str, RecentPrompts] = {}
        self._now = datetime.min.replace(tzinfo=UTC)

    def start(
        self, policy: str, budget: Budget, now: datetime, *, fallbacks: tuple[str, ...] = ()
    ) -> "PacedBatch":
        """Give what chooses for the next batch by a policy, once."""
        return PacedBatch(self, policy, budget, now, fallbacks)

    def undo(self, reserved: Reserved) -> None:
        """Take back what a decision reserved that is not published."""
        self._purses.give_back(reserved.policy, reserved.held, day=reserved.period_start)
        state = self._states.get(reserved.policy)
        if state is not None and state.account.period_start == reserved.period_start:
            state.told.prompts -= 1
            state.told.expected_usd -= reserved.expected_usd

    def find_lambda(self, policy: str, budget: Budget, now: datetime, batch: Candidates) -> float:
        """Give the lambda for a batch, and tell and hear where it is time to."""
        self._now = now
        state = self._find(policy, budget, now)
        if self._clock() - state.asked_at >= _REFRESH_S:
            self._tell(state)
        recent = self._recent.setdefault(policy, RecentPrompts())
        recent.add(batch)
        if budget.error_per_usd is not None and len(recent) <= _KNOWN:
            found = budget.error_per_usd
        else:
            to_come = state.rate(now) * state.left_s(now)
            found = pace_spending(
                recent.plan(),
                state.stand(),
                budget_usd=float(state.account.lendable_usd),
                prompts_left=max(to_come, len(batch.costs)),
            )
        state.told.error_per_usd = found
        return found

    def end_batch(self, policy: str) -> None:
        """Tell of the first prompts at once: nobody knows when the next come."""
        state = self._states[policy]
        if state.told.prompts and math.isinf(state.told_at):
            self._tell(state)

    def reserve(self, policy: str, usd: float, expected_usd: float) -> Reserved | Shortage:
        """Reserve of the period that ``find_lambda`` was last asked for."""
        held = self.hold(policy, usd)
        return held if isinstance(held, Shortage) else self.take(policy, held, usd, expected_usd)

    def hold(self, policy: str, usd: float) -> Held | Shortage:
        """Hold ``usd`` of that period until ``take`` says what of it is reserved."""
        return self._purses.reserve(policy, usd, day=self._states[policy].account.period_start)

    def take(self, policy: str, held: Held, usd: float, expected_usd: float) -> Reserved:
        """Reserve ``usd`` of what is held, and let the rest go."""
        state = self._states[policy]
        period = state.account.period_start
        kept = self._purses.trim(policy, held, usd, day=period)
        state.told.prompts += 1
        state.told.expected_usd += expected_usd
        return Reserved(policy=policy, period_start=period, held=kept, expected_usd=expected_usd)

    def holds_usd(self, policy: str) -> float:
        """Give the greatest amount that can be reserved at once of what is lent."""
        return self._purses.greatest(policy, day=self._states[policy].account.period_start)

    def _lend(self, policy: str, day: date, need: Decimal) -> Grant | None:  # noqa: ARG002  # as the account
        state = self._states[policy]
        left_s = state.left_s(self._now)
        share = min(_SHARE, LEASE_S / left_s) if left_s > _END_S else _END_SHARE
        return self._bank.lend(state.account, need, share)

    def _find(self, policy: str, budget: Budget, now: datetime) -> _State:
        start, state = period_start(budget, now), self._states.get(policy)
        account = Account(policy=policy, budget=budget, period_start=start)
        if state is None:
            state = _State(account=account, since=now, prior_rate=_PRIOR_RATE)
        elif state.account.period_start != start:
            state = _State(account=account, since=start, prior_rate=state.rate(start))
        elif state.account != account:
            state.account = account  # another version of the policy, in the same period
        self._states[policy] = state
        return state

    def _tell(self, state: _State) -> None:
        state.asked_at = self._clock()
        if state.asked_at < state.silent_until:
            return
        try:
            state.standing = self._bank.tell(state.account, state.told)
        except WaitableError as error:
            log.warning("budget_unknown", policy=state.account.policy, problem=str(error))
            state.silent_until = self._clock() + _SILENCE_S
            return
        if state.told.prompts:
            state.told_at = state.asked_at
        state.told = Told(error_per_usd=state.told.error_per_usd)


class PacedBatch:
    """The policy of one batch under a budget: the lambda of the moment, each choice within what is held."""

    def __init__(
        self, pacers: Pacers, policy: str, budget: Budget, now: datetime, fallbacks: tuple[str, ...]
    ) -> None:
        self._pacers = pacers
        self._policy = policy
        self._budget = budget
        self._now = now
        self._fallbacks = fallbacks
        self._trials: Mapping[str, float] = {}
        #: One per prompt, once it has chosen.
        self.paces: list[Pace] = []
        #: One per prompt; ``None`` where nothing was chosen.
        self.reserved: list[Reserved | None] = []
        #: Why nothing was chosen where something was allowed.
        self.shortage: Literal["spent", "unknown"] = "spent"

    def trying(self, shares: Mapping[str, float]) -> Self:
        """Keep these LLMs on trial."""
        self._trials = shares
        return self

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Choose, prompt by prompt in their order, and reserve; -1 where nothing that is allowed is paid for.

        The dearest LLM that may be drawn is held before it is looked at which is: where that is refused the
        prompt is offered the LLMs for which less is reserved. So what a prompt is offered depends on the
        budget and not on its draw, and its propensity is that of its choice.
        """
        error_per_usd = self._pacers.find_lambda(self._policy, self._budget, self._now, candidates)
        policy = keep_on_trial(self._budget.at(error_per_usd), self._trials)
        found, amounts = policy.choose(candidates, rng=rng), reservable(candidates, self._fallbacks)
        llms, propensities = found.llms.copy(), found.propensities.copy()
        chances = _chances(policy, candidates, found)
        for row in range(len(llms)):
            most = max(self._pacers.holds_usd(self._policy), float(amounts[row].max(initial=0.0)))
            drawable, held = chances[row], None
            while drawable.any() and (held := self._hold(float(amounts[row, drawable].max()))) is None:
                offered = candidates.allowed[row] & (amounts[row] < amounts[row, drawable].max())
                most = float(amounts[row, offered].max(initial=0.0))
                one = replace(candidates.rows(slice(row, row + 1)), allowed=offered[None])
                again = policy.choose(one, rng=LoggedDraws(found.draws[row : row + 1]))
                llms[row], propensities[row] = again.llms[0], again.propensities[0]
                drawable = _chances(policy, one, again)[0]
            self.paces.append(Pace(error_per_usd=error_per_usd, remaining_usd=most, by_ceiling=True))
            self.reserved.append(None if held is None else self._take(held, candidates, amounts, row, llms))
        self._pacers.end_batch(self._policy)
        return Choices(llms, propensities, found.draws)

    def _hold(self, usd: float) -> Held | None:
        found = self._pacers.hold(self._policy, usd)
        if isinstance(found, Shortage):
            self.shortage = found.reason
            return None
        return found

    def _take(
        self,
        held: Held,
        candidates: Candidates,
        amounts: NDArray[np.float64],
        row: int,
        llms: NDArray[np.int64],
    ) -> Reserved:
        column = int(llms[row])
        usd, expected_usd = float(amounts[row, column]), float(candidates.costs[row, column])
        return self._pacers.take(self._policy, held, usd, expected_usd)


def _chances(policy: Policy, candidates: Candidates, found: Choices) -> NDArray[np.bool_]:
    """Tell which LLMs (n, H) a policy might have chosen where it chose ``found``."""
    if isinstance(policy, Randomised):
        drawable: NDArray[np.bool_] = policy.probabilities(candidates) > 0
        return drawable
    chosen = np.zeros(candidates.allowed.shape, dtype=np.bool_)
    rows = np.flatnonzero(found.llms >= 0)
    chosen[rows, found.llms[rows]] = True
    return chosen


def period_start(budget: Budget, now: datetime) -> datetime:
    """Give the begin of the UTC hour or day that a moment is in."""
    seconds = math.floor(now.timestamp() / budget.period_s) * budget.period_s
    return datetime.fromtimestamp(seconds, tz=UTC)
