"""The gate before an LLM: who may call now, in which order, at which pace, and when nobody may."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.calls.breaker import FAILURES, Breaker, State
from workers.calls.concurrency import Concurrency
from workers.calls.errors import CallError
from workers.calls.fairness import FairQueue
from workers.calls.pacing import Pace
from workers.calls.pressure import LONGEST_S
from workers.topics import DEFAULT_LANE

#: Turns of each lane while all of them wait: interactive goes first, and none waits for ever.
LANE_TURNS = {"interactive": 16, "batch": 3, "probe": 1}

StateListener = Callable[[State, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an LLM's provider allows, over all executors; ``None`` where it sets no limit."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class GateClosedError(Exception):
    """No call may go to the LLM for now, and the caller would rather not wait."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the LLM's endpoint is failing ({cause}) and is left alone for now")
        #: The class of the endpoint's last error.
        self.cause = cause


@dataclass(slots=True, eq=False)
class _Waiter:
    #: Whether the call that is let go is the breaker's probe.
    future: asyncio.Future[bool]
    tokens: float
    #: Whether it waits while the breaker is open, too.
    patient: bool


@dataclass(slots=True, kw_only=True)
class Admission:
    """A call that may go, to be ended by ``Gate.leave``."""

    tokens: float
    began_at: float
    #: Whether it is the breaker's.
    probe: bool = False


@dataclass(slots=True)
class _Lanes:
    """Waiting calls by lane, handed out by turns (smooth weighted round robin); tenants share their lane."""

    waiting: dict[str, FairQueue[_Waiter]] = field(
        default_factory=lambda: {lane: FairQueue() for lane in LANE_TURNS}
    )
    credit: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANE_TURNS, 0))

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def pop(self) -> _Waiter | None:
        """Give the next that still waits."""
        for queue in self.waiting.values():
            while queue and queue.peek().future.done():
                queue.pop()
        lanes = [lane for lane, queue in self.waiting.items() if queue]
        if not lanes:
            return None
        for lane in lanes:
            self.credit[lane] += LANE_TURNS[lane]
        chosen = max(lanes, key=self.credit.__getitem__)
        self.credit[chosen] -= sum(LANE_TURNS[lane] for lane in lanes)
        return self.waiting[chosen].pop()

    def reject_impatient(self, error: Exception) -> None:
        """Tell those that would rather not wait."""
        for queue in self.waiting.values():
            for waiter in queue:
                if not waiter.patient and not waiter.future.done():
                    waiter.future.set_exception(error)


class Gate:
    """One LLM's gate in this process; belongs to one asyncio loop, whose clock it uses.

    ``admit`` returns when a call may go: the breaker is not open, no more calls are in flight than the
    endpoint bears, and this process's share of the limits per minute allows it. Lanes take turns; the tenants
    that wait in one share its turns by their weights. ``leave``
    tells what came of it. ``on_state`` hears of each change of the breaker.
    """

    def __init__(
        self, *, most: int, clock: Callable[[], float], on_state: StateListener = lambda _state, _why: None
    ) -> None:
        self._clock = clock
        self._on_state = on_state
        self._breaker = Breaker()
        self._concurrency = Concurrency(most)
        self._requests = Pace(now=clock())
        self._tokens = Pace(now=clock())
        self._blocked_until = float("-inf")
        self._lanes = _Lanes()
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._told: State = "closed"

    @property
    def in_flight(self) -> int:
        """Calls that went and have not ended."""
        return self._in_flight

    @property
    def cause(self) -> str:
        """The class of the last error that opened the breaker."""
        return self._breaker.cause

    @property
    def state(self) -> State:
        """Of the breaker."""
        return self._breaker.state(self._clock())

    def limit(self, limits: Limits, *, share: float) -> None:
        """Keep to ``share`` (0 to 1) of an LLM's limits."""
        now = self._clock()
        for pace, per_minute in (
            (self._requests, limits.requests_per_minute),
            (self._tokens, limits.tokens_per_minute),
        ):
            pace.limit(None if per_minute is None else per_minute * share, now=now)
        if len(self._lanes):
            self._pump()

    async def admit(
        self,
        lane: str = DEFAULT_LANE,
        *,
        tokens: float = 0.0,
        patient: bool = True,
        tenant: str = "",
        weight: float = 1.0,
    ) -> Admission:
        """Wait for a turn; ``tokens`` are what the call is expected to use, ``weight`` is the tenant's.

        Raises ``GateClosedError`` where the breaker is open, or opens meanwhile, and the caller is not
        ``patient``.
        """
        now = self._clock()
        if not patient and self._breaker.state(now) == "open":
            raise GateClosedError(self._breaker.cause)
        if len(self._lanes) or self._delay_s(now) > 0 or not self._has_room(now):
            waiter = _Waiter(asyncio.get_running_loop().create_future(), tokens, patient)
            queue = self._lanes.waiting[lane if lane in LANE_TURNS else DEFAULT_LANE]
            queue.push(waiter, flow=tenant, weight=weight)
            probe = await self._wait(waiter)
        else:
            probe = self._let_go(tokens, now)
        return Admission(tokens=tokens, began_at=self._clock(), probe=probe)

    def leave(self, admission: Admission, outcome: CallError | None, *, tokens: float | None = None) -> None:
        """End a call: answered, where there is no error; ``tokens`` are those that it used, if known."""
        now = self._clock()
        self._in_flight -= 1
        if tokens is not None:
            self._tokens.settle(tokens - admission.tokens)
        if outcome is None:
            self._breaker.succeeded(probe=admission.probe)
            self._concurrency.succeeded(now - admission.began_at, now=now)
        elif outcome.error_class in FAILURES:
            self._breaker.failed(outcome.error_class, now=now, probe=admission.probe)
        else:
            self._breaker.succeeded(probe=admission.probe)
            if outcome.error_class == "rate_limit":
                self._concurrency.refused(now=now, in_flight=self._in_flight + 1)
                self.block(outcome.retry_after_s or 0.0)
        self._tell(now)
        self._pump()

    def is_fresh(self, admission: Admission, seconds: float) -> bool:
        """Whether a call may still be made on an admission: under a limit, its turn passes."""
        limited = self._requests.limited or self._tokens.limited
        return not limited or self._clock() - admission.began_at <= seconds

    def abandon(self, admission: Admission) -> None:
        """End a call that was cancelled, or never made: nothing is learned from it."""
        self._in_flight -= 1
        self._breaker.gave_up(probe=admission.probe)
        self._pump()

    def block(self, seconds: float) -> None:
        """Let nothing go for so long, ten minutes at most: nothing is left until then, the provider said."""
        self._blocked_until = max(self._blocked_until, self._clock() + min(seconds, LONGEST_S))

    async def _wait(self, waiter: _Waiter) -> bool:
        self._pump()
        future = waiter.future
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # It had been let go already.
                began_at, probe = self._clock(), future.result()
                self.abandon(Admission(tokens=waiter.tokens, began_at=began_at, probe=probe))
            raise

    def _has_room(self, now: float) -> bool:
        return self._breaker.admits(now) and self._in_flight < self._concurrency.bound

    def _delay_s(self, now: float) -> float:
        """Seconds until time alone lets a call go."""
        delays = [self._requests.wait_s(now), self._tokens.wait_s(now), self._blocked_until - now]
        if self._breaker.opens_at is not None:
            delays.append(self._breaker.opens_at - now)
        return max(0.0, *delays)

    def _let_go(self, tokens: float, now: float) -> bool:
        """Count a call that goes; tell whether it is the breaker's probe."""
        self._requests.take(1.0, now=now)
        self._tokens.take(tokens, now=now)
        probe = self._breaker.begin(now)
        self._in_flight += 1
        self._tell(now)
        return probe

    def _pump(self) -> None:
        """Let go whoever may, and come back when time will let the next go."""
        now = self._clock()
        while (delay_s := self._delay_s(now)) <= 0 and self._has_room(now):
            waiter = self._lanes.pop()
            if waiter is None:
                return
            waiter.future.set_result(self._let_go(waiter.tokens, now))
        if delay_s > 0 and delay_s != float("inf") and len(self._lanes):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._pump)

    def _try_again(self) -> None:
        """Tell that a call may be tried, and let one go if any waits."""
        self._tell(self._clock())
        self._pump()

    def _tell(self, now: float) -> None:
        state = self._breaker.state(now)
        if state != self._told:
            self._told = state
            self._on_state(state, self._breaker.cause)
            if state == "open" and self._breaker.opens_at is not None:
                asyncio.get_running_loop().call_later(self._breaker.opens_at - now, self._try_again)
                self._lanes.reject_impatient(GateClosedError(self._breaker.cause))
