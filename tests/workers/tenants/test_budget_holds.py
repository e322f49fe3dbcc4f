"""Eight routers at once on the real Postgres: no budget is overrun but by what calls cost unexpectedly."""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from queue import Empty, SimpleQueue

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, text

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.snapshot import Snapshot, Versions
from workers import messages
from workers.decision_ids import DecisionSigner
from workers.learner import Learner
from workers.messages import Message, Record, UsageRecord
from workers.router import NamedPolicy, Router, RoutingView
from workers.settings import Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.grants import Balance, Grants
from workers.storage.tenants import Tenant, Tenants
from workers.tenants import Lender, Purses

pytestmark = pytest.mark.stack

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)
FINGERPRINT = Fingerprint(name="axes", dimension=2, precision="f32", max_length=8, checksum="a")
BUDGET = 1.0
ACME = Tenant(name="acme", usd_per_day=BUDGET)


class AxisEmbedder:
    """Gives every text the first axis."""

    fingerprint = FINGERPRINT

    def encode(self, texts: list[str]) -> FloatMatrix:
        """Give the rows, in order."""
        return np.tile(np.eye(2, dtype=np.float32)[:1], (len(texts), 1))


#: A prompt of 8 bytes has 2 tokens, an answer 98: .01 USD are reserved, of which a budget of 1 has a hundred.
VIEW = RoutingView(
    snapshot=Snapshot(
        cluster_map=ClusterMap(
            centroids=np.eye(2, dtype=np.float32),
            sizes=(2,),
            temperature=float("inf"),
            fingerprint=FINGERPRINT,
        ),
        llms=(LLM(name="a", price=Price(input_usd_per_mtok=100.0, output_usd_per_mtok=100.0)),),
        error_rates=np.zeros((2, 1)),
        output_tokens=np.array([98.0]),
        versions=Versions(error_rates="7", prices="3"),
    ),
    embedder=AxisEmbedder(),  # type: ignore[arg-type]  # a Protocol of more than is used
    policies={"default": NamedPolicy.build("default", 1, {"kind": "lagrangian", "error_per_usd": 0.0})},
    tenants={"acme": ACME},
)


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with the tenant, for eight routers and their books."""
    made = make_engine(migrated_url, pool_size=10)
    with transaction(made) as session:
        Tenants(session).add(ACME)
    yield made
    made.dispose()


def make_router(engine: Engine, number: int) -> Router:
    """Make a router whose clock goes on by half a second whenever it is looked at, so that it asks again."""
    ticks = itertools.count()
    return Router(
        view=lambda: VIEW,
        signer=SIGNER,
        settings=Settings(),
        rng=np.random.default_rng(number),
        purses=Purses(Lender(engine, slot=f"r-{number}"), lease_s=1e9, clock=lambda: next(ticks) / 2),
        now=lambda: NOW,
    )


def ask(prompt_id: str) -> Message:
    """Make a prompt of the tenant's."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "8 bytes."}]}
    headers = (("uniroute-reply-to", b"uniroute.replies.app"), ("uniroute-tenant", b"acme"))
    return Message(
        topic="uniroute.prompts",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=prompt_id.encode(),
        value=msgspec.json.encode(body),
        headers=headers,
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


def answer(dispatch: Record, cost_usd: float) -> Message:
    """Give what an executor says of a dispatch."""
    headers = {name: value.decode() for name, value in dispatch.headers}
    prompt_id = (dispatch.key or b"").decode()
    usage = UsageRecord(
        usage_id=f"{dispatch.topic}/0/{prompt_id}",
        prompt_id=prompt_id,
        decision_id=headers[messages.DECISION_ID],
        llm="a",
        outcome="ok",
        attempts=1,
        seconds=0.1,
        tenant=headers[messages.TENANT],
        cost_usd=cost_usd,
        reserved_usd=float(headers[messages.RESERVED_USD]),
    )
    record = Record(topic="uniroute.usage", key=dispatch.key, value=messages.encode(usage))
    return consumed(record)


class Traffic:
    """Eight routers that decide until each was refused four prompts, while two learners keep their books.

    A call costs from ``least`` to ``most`` times what was reserved. Some of what is booked comes twice.
    """

    def __init__(self, engine: Engine, *, least: float, most: float) -> None:
        self.costs: list[float] = []
        self._engine = engine
        self._range = (least, most)
        self._entries: SimpleQueue[Message] = SimpleQueue()
        self._ended = threading.Event()
        with ThreadPoolExecutor(10) as pool:
            learners = [pool.submit(self._learn) for _ in range(2)]
            for router in [pool.submit(self._route, number) for number in range(8)]:
                router.result()
            self._ended.set()
            for learner in learners:
                learner.result()

    def _route(self, number: int) -> None:
        router, rng, refused = make_router(self._engine, number), random.Random(number), 0
        for serial in itertools.count():
            batch = [ask(f"p-{number}-{serial}-{row}") for row in range(3)]
            decided = [records for records in router.handle(batch) if len(records) > 1]
            for dispatch, _, reservation in decided:
                cost = 0.01 * rng.uniform(*self._range)
                self.costs.append(cost)
                self._entries.put(consumed(reservation))
                self._entries.put(answer(dispatch, cost))
            refused += len(batch) - len(decided)
            if refused > 3:
                return

    def _learn(self) -> None:
        learner = Learner(engine=self._engine, signer=SIGNER, settings=Settings())
        last: list[Message] = []
        while not (self._ended.is_set() and self._entries.empty()):
            batch = [*last, *take(self._entries, 40)]
            assert learner.handle(batch) == [[] for _ in batch]
            last = batch[-5:]


def take(entries: SimpleQueue[Message], most: int) -> list[Message]:
    """Take what waits."""
    taken: list[Message] = []
    with suppress(Empty):
        while len(taken) < most:
            taken.append(entries.get(timeout=0.01))
    return taken


def read_balance(engine: Engine) -> Balance:
    """Read where the tenant stands."""
    with transaction(engine) as session:
        return Grants(session).balances("acme", day=NOW.date(), budgets=(BUDGET, None))[0]


def test_a_budget_holds_under_eight_routers(engine: Engine) -> None:
    """Calls that cost at most what was reserved never overrun it, and leave less than three calls unspent."""
    traffic = Traffic(engine, least=0.2, most=1.0)
    balance = read_balance(engine)

    assert balance.settled == sum(Decimal(repr(cost)) for cost in traffic.costs)
    assert balance.reserved == 0
    assert balance.settled <= BUDGET
    assert balance.settled + balance.granted > BUDGET - 0.03


def test_an_overrun_is_what_calls_cost_above_their_reservations(engine: Engine) -> None:
    """Where calls cost up to twice as much, the books say so, and lend nothing any more."""
    traffic = Traffic(engine, least=0.5, most=2.0)
    balance = read_balance(engine)
    excess = sum(max(0.0, cost - 0.01) for cost in traffic.costs)

    assert balance.settled == sum(Decimal(repr(cost)) for cost in traffic.costs)
    assert BUDGET - 0.03 < float(balance.settled + balance.granted) <= BUDGET + excess
    assert make_router(engine, 9).handle([ask("p-late")])[0][0].topic == "uniroute.replies.app"


def test_what_dead_routers_were_lent_comes_back(engine: Engine) -> None:
    """A router that decided two prompts and died, one of them uncommitted, takes nothing along."""
    router = make_router(engine, 0)
    committed, _aborted = router.handle([ask("p-1"), ask("p-2")])
    learner = Learner(engine=engine, signer=SIGNER, settings=Settings())
    learner.handle([consumed(committed[2])])
    lent = read_balance(engine)
    Lender(engine, slot="r-0").claim_back()
    with transaction(engine) as session:
        grants = Grants(session)
        grants.release(before=grants.now() + timedelta(seconds=1))
    released = read_balance(engine)
    learner.handle([answer(committed[0], 0.004)])
    settled = read_balance(engine)

    # A twentieth of 1 USD was lent, .05: .01 of it is known to be reserved.
    assert (lent.granted, lent.reserved) == (Decimal("0.04"), Decimal("0.01"))
    assert (released.granted, released.reserved) == (Decimal(0), Decimal("0.01"))
    assert (settled.reserved, settled.remaining) == (Decimal(0), Decimal("0.996"))


def test_routers_ask_for_few_grants(engine: Engine) -> None:
    """A hundred prompts of a hundredth of the budget each: some 50 grants, 20 of them for the last fifth."""
    router = make_router(engine, 0)
    for serial in range(100):
        router.handle([ask(f"p-{serial}")])
    with transaction(engine) as session:
        grants = session.scalar(text("SELECT count(*) FROM budget_grants"))

    assert grants is not None
    assert grants < 60
