"""The books balance whatever dies: real routers, executor, learner, broker and Postgres, simulated LLMs."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import pytest
from exactly_once import CommittedReader, make_ids, produce
from installations import Installation
from sqlalchemy import text

from workers.local.simulated.process import ServerProcess
from workers.local.stack import LocalStack
from workers.roles import build_router
from workers.storage.engine import transaction
from workers.storage.ledger import Ledger
from workers.storage.snapshots import load_state
from workers.storage.tenants import Tenant, Tenants
from workers.topics import create_topics, reply_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

BODY = b'{"model": "auto", "messages": [{"role": "user", "content": "what red apple"}]}'
QUICK = {"UNIROUTE_SESSION_TIMEOUT_MS": "1500", "UNIROUTE_MAX_BATCH": "8"}
#: For anything to happen, the start of a process on a busy machine included.
PATIENCE_S = 120.0
PROMPTS = 300
ROUTERS = 8


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """One LLM that is called in earnest, and a tenant that can pay for about half of the prompts."""
    created = Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap,
        database_url=migrated_url,
        folder=tmp_path,
        partitions=ROUTERS,
    )
    with created, ServerProcess.start() as server:
        created.register("sim-generalist", usd_per_mtok=1_000.0, base_url=server.base_url)
        create_topics(created.settings, [reply_topic(replies_of(created), created.settings)])
        with transaction(created.engine) as session:
            [llm] = load_state(session).registered.values()
        # Every prompt reserves the same: its 14 bytes, and the answer that is expected.
        reserved = (14 / 4 + llm.llm.expected_output_tokens) * 1e-3
        with transaction(created.engine) as session:
            Tenants(session).add(Tenant(name="acme", usd_per_day=reserved * PROMPTS / 2))
        yield created


def replies_of(installation: Installation) -> str:
    """Name the caller's reply topic."""
    return f"{installation.settings.reply_prefix}app"


def send(installation: Installation, ids: list[bytes]) -> None:
    """Produce prompts of the tenant's."""
    headers = [("uniroute-reply-to", replies_of(installation).encode()), ("uniroute-tenant", b"acme")]
    produce(
        installation.settings.kafka_bootstrap,
        installation.topics.prompts,
        dict.fromkeys(ids, BODY),
        headers=headers,
    )


def headers_of(record: Any) -> Mapping[str, str]:
    """Give a record's headers as text."""
    return {name: value.decode() for name, value in record.headers}


def read_spend(installation: Installation) -> tuple[int, Decimal, Decimal]:
    """Give the replies booked for the tenant, what is reserved and what is settled."""
    with transaction(installation.engine) as session:
        return Ledger(session).totals("acme")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What callers were told, and what it cost."""

    costs: list[Decimal]
    #: Error codes.
    refused: set[str]
    budget: float
    #: USD that calls cost above what was reserved for them.
    overrun: float

    @classmethod
    def of(cls, installation: Installation, replies: Sequence[Any]) -> Self:
        """Read it off the replies."""
        errors = [json.loads(one.value).get("error") for one in replies]
        costs = [
            Decimal(headers_of(one)["uniroute-cost-usd"])
            for one, error in zip(replies, errors, strict=True)
            if not error
        ]
        with transaction(installation.engine) as session:
            budget = Tenants(session).get("acme").usd_per_day or 0.0
        reserved = budget / (PROMPTS / 2)
        return cls(
            costs=costs,
            refused={error["code"] for error in errors if error},
            budget=budget,
            overrun=sum(max(0.0, float(cost) - reserved) for cost in costs),
        )


@contextmanager
def run_routers(installation: Installation) -> Iterator[None]:
    """Run eight routers in threads of this process, each in its slot, as ``uniroute serve`` would."""
    stop = threading.Event()

    def serve(slot: str) -> None:
        with ExitStack() as stack:
            settings = installation.settings.model_copy(update={"worker_slot": slot})
            build_router(settings, stack).run(stop)

    with ThreadPoolExecutor(ROUTERS) as pool:
        served = [pool.submit(serve, str(number)) for number in range(ROUTERS)]
        try:
            yield
        finally:
            stop.set()
    for one in served:
        one.result()


def test_a_budget_holds_under_eight_routers_on_kafka(installation: Installation) -> None:
    """Eight members share the prompts; beyond the budget is paid what calls cost above their reservations.

    Prompts come until some are refused: how many that takes depends on how soon calls are settled. Eight
    routers in one process may keep each other waiting for the books longer than a prompt is made to wait:
    then its caller is told to send it again, and nothing is spent.
    """
    ids = make_ids(6 * PROMPTS)
    sent = 20
    installation.serve("executor", environment=QUICK)
    installation.serve("learner", environment=QUICK)
    with (
        run_routers(installation),
        CommittedReader(installation.settings.kafka_bootstrap, [replies_of(installation)]) as replies,
    ):
        send(installation, ids[:sent])
        replies.read_until(lambda found: len(found.ids) >= 20, timeout_s=PATIENCE_S)
        while sent < len(ids) and "budget_exhausted" not in Outcome.of(installation, replies.records).refused:
            send(installation, ids[sent : sent + PROMPTS])
            sent = min(sent + PROMPTS, len(ids))
            replies.read_until(lambda found, wanted=sent: len(found.ids) >= wanted, timeout_s=PATIENCE_S)
        replies.read_to_end()
    outcome = Outcome.of(installation, replies.records)
    with transaction(installation.engine) as session:
        lent = session.scalar(text("SELECT count(DISTINCT slot) FROM budget_grants"))

    assert replies.ids == Counter(ids[:sent])
    assert outcome.refused - {"budget_unknown"} == {"budget_exhausted"}
    assert float(sum(outcome.costs)) <= outcome.budget + outcome.overrun
    assert len(outcome.costs) > PROMPTS / 4
    assert lent == ROUTERS


def test_books_balance_after_sigkill_of_every_role(installation: Installation) -> None:
    """What is settled is what the replies say, to the last digit; nothing stays reserved; the budget holds.

    Two processes, each a router, executor and learner, are killed amid their work and started again.
    """
    ids = make_ids(PROMPTS)
    send(installation, ids)
    workers = [installation.serve("all", slot=slot, environment=QUICK) for slot in "01"]
    with CommittedReader(installation.settings.kafka_bootstrap, [replies_of(installation)]) as replies:
        for number, worker in enumerate(workers):
            wanted = 40 * (1 + number)
            replies.read_until(lambda found, least=wanted: len(found.records) >= least, timeout_s=PATIENCE_S)
            worker.kill()
            installation.serve("all", slot=str(number), environment=QUICK)
        replies.read_until(lambda found: found.ids.keys() >= set(ids), timeout_s=PATIENCE_S)
        replies.read_to_end()
    outcome = Outcome.of(installation, replies.records)
    deadline = time.monotonic() + PATIENCE_S
    while (booked := read_spend(installation))[0] < len(outcome.costs):
        assert time.monotonic() < deadline, booked

    assert replies.ids == Counter(ids)
    assert outcome.refused == {"budget_exhausted"}
    assert booked == (len(outcome.costs), Decimal(0), sum(outcome.costs))
    assert float(sum(outcome.costs)) <= outcome.budget + outcome.overrun
    assert len(outcome.costs) > PROMPTS / 4
