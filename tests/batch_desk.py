"""A desk at which tests plan and dispatch the lines of a batch, without Kafka and Postgres."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
from fake_embedders import FakeEmbedder

from routing.clusters.kmeans import fit_cluster_map
from routing.llms import LLM, Price
from routing.snapshot import Snapshot, Versions
from workers.batches.dispatching import Dispatched, Dispatcher
from workers.batches.folders import BatchFolder
from workers.batches.ingest import Lines, ingest
from workers.batches.planning import Goal, Plan, make_plan
from workers.batches.preparing import Texts
from workers.batches.purse import Purse
from workers.batches.requests import Wishes
from workers.batches.vectors import Vectors
from workers.decision_ids import DecisionSigner
from workers.messages import DecisionRecord
from workers.router import NamedPolicy, RoutingView
from workers.settings import Settings
from workers.storage.grants import Grant
from workers.storage.tenants import Tenant
from workers.tenants import Purses

SETTINGS = Settings()
WISHES = Wishes(batch_id="batch_1", reply_to="uniroute.replies.batches.batch_1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: USD of a line: an answer of 100 tokens, a prompt of none to speak of (one token).
CHEAP, DEAR = 101e-6, 1010e-6


@dataclass(slots=True)
class Desk:
    """Twenty lines of one token, and two LLMs: one errs on half of them, a dearer one on a tenth."""

    lines: Lines
    vectors: Vectors
    view: RoutingView
    dispatcher: Dispatcher

    def plan(self, goal: Goal) -> Plan:
        """Plan all lines."""
        return make_plan(self.lines, self.vectors, range(len(self.lines)), self.view.snapshot, goal)

    def dispatch(self, plan: Plan, purse: Purse, rows: range = range(20)) -> Dispatched:
        """Dispatch lines by a plan."""
        return self.dispatcher.dispatch(rows, self.view, plan, purse)


def write_requests(source: Path, count: int) -> None:
    """Write a file of so many lines of one token each."""
    with source.open("w") as file:
        for number in range(count):
            body = {"model": "auto", "messages": [{"role": "user", "content": f"{number % 10_000:04d}"}]}
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def write_lines(folder: BatchFolder, source: Path, count: int) -> tuple[Lines, Vectors]:
    """Check and embed so many lines of one token each."""
    write_requests(source, count)
    embedder = FakeEmbedder()
    ingest(source, folder, WISHES, SETTINGS)
    lines, vectors = Lines(folder), Vectors(folder, embedder.fingerprint)
    texts = Texts(lines, WISHES, SETTINGS)
    while vectors.count < len(lines):
        texts.embed_next(vectors, embedder)
    return lines, vectors


@contextmanager
def open_desk(folder: Path) -> Iterator[Desk]:
    """Open a desk with the lines checked and embedded."""
    embedder = FakeEmbedder()
    lines, vectors = write_lines(BatchFolder(folder / "batch"), folder / "in.jsonl", 20)
    cluster_map = fit_cluster_map(
        vectors.read(slice(0, 20)), fingerprint=embedder.fingerprint, sizes=(1,), seed=0
    )
    snapshot = Snapshot(
        cluster_map=cluster_map,
        llms=tuple(
            LLM(name=name, price=Price(input_usd_per_mtok=price, output_usd_per_mtok=price))
            for name, price in (("cheap", 1.0), ("dear", 10.0))
        ),
        error_rates=np.array([[0.5, 0.1]]),
        output_tokens=np.array([100.0, 100.0]),
        versions=Versions(error_rates="1", prices="1"),
    )
    dispatcher = Dispatcher(
        lines=lines,
        vectors=vectors,
        wishes=WISHES,
        signer=DecisionSigner({0: b"0123456789abcdef"}, current=0),
        settings=SETTINGS,
        rng=np.random.default_rng(0),
        now=lambda: NOW,
    )
    yield Desk(lines, vectors, RoutingView(snapshot=snapshot, embedder=embedder, policies={}), dispatcher)
    lines.close()
    vectors.close()


def make_purse(budget_usd: float, *, reserved_usd: float = 0.0) -> Purse:
    """A purse of which nothing is spent."""
    nothing = Decimal(0)
    return Purse(
        budget_usd=Decimal(repr(budget_usd)),
        spent_usd=nothing,
        reserved_usd=Decimal(repr(reserved_usd)),
        settled_usd=nothing,
        largest_overrun_usd=nothing,
        lines_under_way=1 if reserved_usd else 0,
    )


def read_decisions(found: Dispatched) -> list[DecisionRecord]:
    """Give the decision records."""
    return [
        msgspec.json.decode(record.value or b"", type=DecisionRecord)
        for record in found.records
        if record.topic == "uniroute.decisions"
    ]


def replace_plan(plan: Plan, **changes: object) -> Plan:
    """Give a plan with other figures."""
    return msgspec.structs.replace(plan, **changes)


def lend(usd: float) -> Purses:
    """Purses of a tenant that has so much left in all."""
    left = [Decimal(repr(usd))]

    def grant(_tenant: str, day: date, need: Decimal) -> Grant | None:
        if need > left[0]:
            return None
        left[0] -= need
        return Grant(id=7, day=day, usd=need)

    return Purses(grant)


def serve_tenant(desk: Desk, tenant: Tenant, purses: Purses) -> Dispatcher:
    """A dispatcher of the same lines for a tenant."""
    desk.view = replace(desk.view, tenants={tenant.name: tenant})
    return Dispatcher(
        lines=desk.lines,
        vectors=desk.vectors,
        wishes=replace(WISHES, tenant=tenant.name),
        signer=DecisionSigner({0: b"0123456789abcdef"}, current=0),
        settings=SETTINGS,
        rng=np.random.default_rng(0),
        now=lambda: NOW,
        purses=purses,
    )


def name_policies(desk: Desk, folder: Path, *models: str) -> Desk:
    """A desk whose lines name these models, one each, with some policies in force."""
    bodies = {
        "thrift": {"kind": "fixed", "llm": "cheap"},
        "left": {"kind": "fixed", "llm": "gone"},
        "paced": {"kind": "budget", "usd": 1.0, "per": "day"},
    }
    source, batch = folder / "named.jsonl", BatchFolder(folder / "named")
    write_requests(source, len(models))
    lines = source.read_text().splitlines()
    named = (line.replace('"auto"', f'"{one}"') for line, one in zip(lines, models, strict=True))
    source.write_text("\n".join(named))
    ingest(source, batch, WISHES, SETTINGS)
    desk.lines = Lines(batch)
    policies = {name: NamedPolicy.build(name, 3, body) for name, body in bodies.items()}
    desk.view = replace(desk.view, policies=policies)
    return desk
