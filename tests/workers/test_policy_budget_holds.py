"""A policy's budget on the real Postgres: eight routers at once, settled by usage, and one that dies."""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from queue import Empty, SimpleQueue

import msgspec
import numpy as np
import pytest
from logged_traffic import LARGE_USD, NOW, AxisEmbedder, Office
from sqlalchemy import Engine

from workers import messages
from workers.decision_ids import DecisionSigner
from workers.learner import Learner
from workers.messages import DecisionRecord, Message, Record, ReservationRecord, UsageRecord
from workers.router import NamedPolicy, Router
from workers.router.banks import PostgresBank
from workers.router.pacing import HELD_BACK, Pacers
from workers.settings import Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.grants import Grants
from workers.storage.policy_books import PolicyBooks, PolicyStanding
from workers.storage.tenants import Tenant
from workers.tenants import Purses

pytestmark = pytest.mark.stack

SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)
#: ``large`` costs .00258 USD and is wanted by all: a hundred calls of it, of more than will be asked for.
CALL_USD = 258 * LARGE_USD / 1e6
BUDGET = 100 * CALL_USD / (1 - HELD_BACK)
PERIOD = NOW.replace(minute=0)


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """An engine with connections for eight routers and their books."""
    made = make_engine(migrated_url, pool_size=10)
    yield made
    made.dispose()


def ask(prompt_id: str, *headers: tuple[str, bytes]) -> Message:
    """Make a prompt for which ``large`` alone will do."""
    body = {"model": "auto/paced", "messages": [{"role": "user", "content": "3 bytes."}]}
    return Message(
        topic="uniroute.prompts",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=prompt_id.encode(),
        value=msgspec.json.encode(body),
        headers=(
            ("uniroute-reply-to", b"uniroute.replies.app"),
            ("uniroute-candidates", b"large"),
            *headers,
        ),
    )


def consumed(record: Record) -> Message:
    """Give a record as the learner consumes it."""
    return Message(
        topic=record.topic,
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def answer(dispatch: Record, cost_usd: float | None) -> Message:
    """Give what an executor says of a dispatch."""
    headers = {name: value.decode() for name, value in dispatch.headers}
    prompt_id = (dispatch.key or b"").decode()
    usage = UsageRecord(
        usage_id=f"{dispatch.topic}/0/{prompt_id}",
        prompt_id=prompt_id,
        decision_id=headers[messages.DECISION_ID],
        llm="large",
        outcome="ok",
        attempts=1,
        seconds=0.1,
        cost_usd=cost_usd,
        policy=headers[messages.POLICY],
        expected_usd=float(headers[messages.PREDICTED_COST_USD]),
        policy_period=int(headers[messages.POLICY_PERIOD]),
    )
    record = Record(topic="uniroute.usage", key=dispatch.key, value=messages.encode(usage))
    return consumed(record)


class Site:
    """Routers of one installation, under a policy that may spend ``BUDGET`` an hour."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        body = {"kind": "budget", "usd": BUDGET, "per": "hour", "error_per_usd": 0}
        self.view = replace(
            Office.open(engine).view(),
            embedder=AxisEmbedder(),
            policies={"paced": NamedPolicy.build("paced", 1, body)},
            tenants={"poor": Tenant(name="poor", usd_per_day=1e-9)},
        )

    def router(self, slot: str, *, purses: Purses | None = None) -> Router:
        """Make a router whose clock goes on whenever it is looked at, so that it asks again and again."""
        ticks = itertools.count()
        pacers = Pacers(PostgresBank(self.engine, slot=slot), clock=lambda: next(ticks) / 2)
        return Router(
            view=lambda: self.view,
            signer=SIGNER,
            settings=Settings(),
            rng=np.random.default_rng(0),
            pacers=pacers,
            purses=purses,
            now=lambda: NOW,
        )

    def learner(self) -> Learner:
        """Make what books usage."""
        return Learner(engine=self.engine, signer=SIGNER, settings=Settings())

    def standing(self) -> PolicyStanding:
        """Read where the policy stands."""
        with transaction(self.engine) as session:
            return PolicyBooks(session).standing("paced", PERIOD)

    def release(self, slot: str) -> int:
        """End a router's leases, and give back the rests of what it was lent."""
        with transaction(self.engine) as session:
            grants = Grants(session)
            grants.expire(slot)
            return grants.release(before=grants.now() + timedelta(seconds=1))


def test_a_policys_budget_holds_under_eight_routers(engine: Engine) -> None:
    """Calls cost .2 to 1 of what was reserved: all that is settled stays below, and nearly all is spent.

    Eight routers decide until each was refused four prompts, while two learners book each answer, some twice.
    """
    site, costs, ended = Site(engine), [], threading.Event()
    entries: SimpleQueue[Message] = SimpleQueue()

    def route(number: int) -> None:
        router, rng, refused = site.router(f"r-{number}"), random.Random(number), 0
        for serial in itertools.count():
            outputs = router.handle([ask(f"p-{number}-{serial}-{row}") for row in range(3)])
            decided = [records for records in outputs if len(records) > 1]
            for dispatch, _, reservation in decided:
                cost = CALL_USD * rng.uniform(0.2, 1.0)
                costs.append(cost)
                entries.put(consumed(reservation))
                entries.put(answer(dispatch, cost))
            refused += len(outputs) - len(decided)
            if refused > 3:
                return

    def learn() -> None:
        learner, last = site.learner(), list[Message]()
        while not (ended.is_set() and entries.empty()):
            fresh: list[Message] = []
            with suppress(Empty):
                while len(fresh) < 40:
                    fresh.append(entries.get(timeout=0.01))
            learner.handle([*last, *fresh])
            last = fresh[-5:]

    with ThreadPoolExecutor(10) as pool:
        learners = [pool.submit(learn) for _ in range(2)]
        try:
            for router in [pool.submit(route, number) for number in range(8)]:
                router.result()
        finally:
            ended.set()
        for learner in learners:
            learner.result()
    found = site.standing()

    assert found.paid == pytest.approx(sum(costs), rel=1e-9)
    assert found.expected == pytest.approx(len(costs) * CALL_USD)
    assert (
        BUDGET * (1 - HELD_BACK) - 9 * CALL_USD < found.paid + found.held <= BUDGET * (1 - HELD_BACK) + 1e-9
    )
    assert len(costs) > 100


def test_usage_settles_what_a_decision_reserved(engine: Engine) -> None:
    """The dispatch names the period, the usage the policy; what an endpoint does not tell counts as spent."""
    site = Site(engine)
    [told, untold] = site.router("r").handle([ask("p-1"), ask("p-2")])
    site.learner().handle([consumed(told[2]), consumed(untold[2])])
    site.release("r")
    reserved = site.standing()
    site.learner().handle([answer(told[0], 0.001), answer(untold[0], None)])
    settled = site.standing()
    entry = msgspec.json.decode(told[2].value or b"", type=ReservationRecord)

    assert (entry.policy, entry.policy_period) == ("paced", int(PERIOD.timestamp()))
    assert (entry.grant, entry.reserved_usd) == (0, 0.0)
    assert entry.policy_usd == pytest.approx(CALL_USD)
    assert (reserved.held, reserved.paid) == (pytest.approx(2 * CALL_USD), 0.0)
    assert (settled.held, settled.paid) == (0.0, pytest.approx(0.001 + CALL_USD))


def test_what_a_dead_router_was_lent_is_spent_by_others(engine: Engine) -> None:
    """It committed one decision of 100 that the budget pays for; another router serves most of the rest.

    Not all: what a grant has left that is less than a call waits for the end of its lease.
    """
    site = Site(engine)
    [committed, _] = site.router("dead").handle([ask("p-1"), ask("p-2")])
    site.learner().handle([consumed(committed[2])])
    lent = site.standing().held
    site.release("dead")
    left = site.standing().held

    served = 0
    router = site.router("r")
    while len(router.handle([ask(f"q-{served}")])[0]) > 1:
        served += 1

    assert lent >= 2 * CALL_USD
    assert left == pytest.approx(CALL_USD)
    assert 85 <= served <= 99


def test_a_prompt_its_tenant_cannot_pay_for_takes_nothing(engine: Engine) -> None:
    """The policy's budget pays for a prompt of another tenant out of what the refused one had reserved."""
    site = Site(engine)
    purses = Purses(lambda _tenant, _day, _need: None)
    router = site.router("r", purses=purses)
    [[refused]] = router.handle([ask("p-1", ("uniroute-tenant", b"poor"))])
    [[_, decision, _]] = router.handle([ask("p-2")])
    pace = msgspec.json.decode(decision.value or b"", type=DecisionRecord).pace

    # A sixtieth of the hour's budget was lent, for a minute: that is 1.67 calls, and all of them are left.
    assert b"budget_exhausted" in (refused.value or b"")
    assert pace is not None
    assert pace.by_ceiling
    assert pace.remaining_usd == pytest.approx(100 / 60 * CALL_USD)


def test_a_cascade_reserves_for_all_that_it_may_ask(engine: Engine) -> None:
    """``small`` may be asked after ``large``: a tenth more is held; where that is not left, nothing is."""
    site = Site(engine)
    usd = 2.2 * CALL_USD
    body = {"kind": "budget", "usd": usd, "per": "hour", "error_per_usd": 0, "fallbacks": ["small"]}
    site.view = replace(site.view, policies={"paced": NamedPolicy.build("paced", 1, body)})
    wish = ("uniroute-cascade", b'{"accept_at": 0.9}')
    both = ("uniroute-candidates", b"large,small")
    router = site.router("r")
    [[_, _, reservation]] = router.handle([ask("p-1", both, wish)])
    [[refused]] = router.handle([ask("p-2", both, wish)])
    entry = msgspec.json.decode(reservation.value or b"", type=ReservationRecord)

    assert entry.policy_usd == pytest.approx(1.1 * CALL_USD)
    assert b"budget_exhausted" in (refused.value or b"")
