"""What the router makes of a prompt's tenant: three LLMs, whose numbers are worked by hand."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.snapshot import Snapshot, Versions
from workers.decision_ids import DecisionSigner
from workers.errors import WaitableError
from workers.messages import DecisionRecord, Message, Record, ReservationRecord
from workers.replay.again import decide_as_logged
from workers.router import NamedPolicy, Router, RoutingView
from workers.settings import Settings
from workers.storage.grants import Grant
from workers.storage.tenants import Tenant
from workers.tenants import Purses

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)
FINGERPRINT = Fingerprint(name="axes", dimension=2, precision="f32", max_length=8, checksum="a")


class AxisEmbedder:
    """Gives every text the first axis."""

    fingerprint = FINGERPRINT

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give the rows, in order."""
        return np.tile(np.eye(2, dtype=np.float32)[:1], (len(texts), 1))


def make_llm(name: str, usd: float) -> LLM:
    """Make an LLM whose tokens cost ``usd`` per million, in and out."""
    return LLM(name=name, price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd))


#: A prompt of 8 bytes has 2 tokens, an answer 98: ``large`` costs .001 USD, ``small`` .0001, ``tiny`` .00001.
#: ``large`` never errs, so that a policy without a price on cost takes it.
SNAPSHOT = Snapshot(
    cluster_map=ClusterMap(
        centroids=np.eye(2, dtype=np.float32), sizes=(2,), temperature=float("inf"), fingerprint=FINGERPRINT
    ),
    llms=(make_llm("large", 10.0), make_llm("small", 1.0), make_llm("tiny", 0.1)),
    error_rates=np.array([[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]),
    output_tokens=np.array([98.0, 98.0, 98.0]),
    versions=Versions(error_rates="7", prices="3"),
)


#: Takes ``tiny``, and ``small`` where that gives no answer.
FRUGAL = {"kind": "lagrangian", "error_per_usd": 1e9, "fallbacks": ["small"]}


class Books:
    """Lends 0.0025 USD in one grant, and then no more; or nothing but excuses."""

    def __init__(self, *, away: bool = False) -> None:
        self.asked: list[tuple[str, date, Decimal]] = []
        self._away = away

    def __call__(self, tenant: str, day: date, need: Decimal) -> Grant | None:
        """Lend once."""
        self.asked.append((tenant, day, need))
        if self._away:
            raise WaitableError("Postgres", "down")
        return Grant(id=7, day=day, usd=Decimal("0.0025")) if len(self.asked) == 1 else None


def route(
    tenant: Tenant | None, *wishes: tuple[str, str], prompts: int = 1, books: Books | None = None
) -> list[list[Record]]:
    """Route prompts of a tenant in one batch; ``wishes`` are headers without their prefix."""
    view = RoutingView(
        snapshot=SNAPSHOT,
        embedder=AxisEmbedder(),
        policies={
            name: NamedPolicy.build(name, 1, {"kind": "lagrangian", "error_per_usd": 0.0})
            for name in ("default", "own")
        }
        | {"frugal": NamedPolicy.build("frugal", 1, FRUGAL)},
        tenants={} if tenant is None else {tenant.name: tenant},
    )
    router = Router(
        view=lambda: view,
        signer=SIGNER,
        settings=Settings(),
        rng=np.random.default_rng(0),
        purses=Purses(books or Books(), clock=lambda: 0.0),
        now=lambda: NOW,
    )
    headers = {"reply-to": "uniroute.replies.app", **dict(wishes)}
    if tenant is not None:
        headers.setdefault("tenant", tenant.name)
    body = {"model": "auto", "messages": [{"role": "user", "content": "8 bytes."}]}
    batch = [
        Message(
            topic="uniroute.prompts",
            partition=0,
            offset=number,
            timestamp_ms=0,
            key=f"p-{number}".encode(),
            value=msgspec.json.encode(body),
            headers=tuple((f"uniroute-{name}", value.encode()) for name, value in headers.items()),
        )
        for number in range(prompts)
    ]
    return router.handle(batch)


def headers_of(record: Record) -> dict[str, str]:
    """Give headers as text."""
    return {name: value.decode() for name, value in record.headers}


def decision_of(records: Sequence[Record]) -> DecisionRecord:
    """Give the decision among the records."""
    [record] = [record for record in records if record.topic == "uniroute.decisions"]
    return msgspec.json.decode(record.value or b"", type=DecisionRecord)


def error_of(records: Sequence[Record]) -> Any:
    """Give the error reply's error."""
    [record] = [record for record in records if record.topic == "uniroute.replies.app"]
    return msgspec.json.decode(record.value or b"")["error"]


ACME = Tenant(name="acme", usd_per_day=1.0)


def test_a_decision_says_what_it_reserved() -> None:
    """The dispatch, the decision's record and an entry for the books, with one decision id and one key."""
    dispatch, decision, entry = route(ACME)[0]
    reserved = msgspec.json.decode(entry.value or b"", type=ReservationRecord)

    assert (entry.topic, entry.key, dispatch.key) == ("uniroute.usage", b"p-0", b"p-0")
    assert headers_of(entry)["ce_type"] == "uniroute.reservation"
    assert headers_of(dispatch)["uniroute-reserved-usd"] == "0.001"
    assert (reserved.tenant, reserved.grant, reserved.reserved_usd) == ("acme", 7, 0.001)
    assert reserved.decision_id == headers_of(dispatch)["uniroute-decision-id"]
    assert (decision_of([decision]).tenant, decision_of([decision]).reserved_usd) == ("acme", 0.001)


def test_what_may_stand_in_is_reserved_for() -> None:
    """A call of ``tiny`` costs .00001 USD; ``small``, which answers in its place, ten times that."""
    [records] = route(ACME, ("policy", "frugal"))

    assert (decision_of(records).llm, decision_of(records).reserved_usd) == ("tiny", 0.0001)


def test_beyond_the_budget_there_is_an_error_reply() -> None:
    """.0025 USD pay for two calls of .001; the third prompt is told what it is, and nothing is published."""
    *paid, refused = route(ACME, prompts=3)

    assert [len(records) for records in (*paid, refused)] == [3, 3, 1]
    assert error_of(refused)["code"] == "budget_exhausted"
    assert "acme" in error_of(refused)["message"]
    assert "1 USD a day (UTC)" in error_of(refused)["message"]


def test_beyond_the_budget_a_tenant_may_get_its_cheapest_llm() -> None:
    """Flagged on dispatch and record, with a decision id of that LLM; nothing is reserved."""
    tenant = Tenant(name="acme", usd_per_day=1.0, at_limit="degrade")
    dispatch, record = route(tenant, prompts=3)[2]
    decision = decision_of([record])

    assert dispatch.topic == "uniroute.dispatch.tiny"
    assert headers_of(dispatch)["uniroute-degraded"] == "tenant_budget"
    assert (decision.llm, decision.degraded, decision.reserved_usd) == ("tiny", "tenant_budget", 0.0)
    assert decision.limits == {"candidates": ["tiny"]}
    assert SIGNER.verify(headers_of(dispatch)["uniroute-decision-id"]).llm == "tiny"


def test_the_cheapest_llm_is_one_that_the_limits_allow() -> None:
    """``tiny`` errs too often for this caller, and ``small`` is the cheapest of the rest."""
    tenant = Tenant(name="acme", usd_per_day=1.0, at_limit="degrade")

    assert decision_of(route(tenant, ("max-error", "0.6"), prompts=3)[2]).llm == "small"


def test_a_degraded_decision_replays_as_any_other() -> None:
    """Decided again from its record, LLM and costs have the same bits."""
    tenant = Tenant(name="acme", usd_per_day=1.0, at_limit="degrade")
    decisions = [decision_of(records) for records in route(tenant, prompts=4)]
    again = {
        record.prompt_id: (found.llm(row), found.costs[row].tolist())
        for part, found in decide_as_logged(decisions, SNAPSHOT)
        for row, record in enumerate(part)
    }

    assert [decision.llm for decision in decisions] == ["large", "large", "tiny", "tiny"]
    assert again == {
        one.prompt_id: (one.llm, [candidate.cost_usd for candidate in one.candidates]) for one in decisions
    }


def test_a_budget_that_cannot_be_read_is_told_apart() -> None:
    """Nobody waits for Postgres: the caller is told to send again, once Postgres was asked once."""
    books = Books(away=True)
    records = route(ACME, prompts=3, books=books)

    assert [error_of(one)["code"] for one in records] == ["budget_unknown"] * 3
    assert len(books.asked) == 1


def test_a_tenant_without_a_budget_asks_no_books() -> None:
    """Its prompts cost nothing but their calls, and its weight travels to the lane."""
    books = Books()
    dispatch, _ = route(Tenant(name="acme", priority=2.5), books=books)[0]

    assert books.asked == []
    assert headers_of(dispatch)["uniroute-priority"] == "2.5"
    assert "uniroute-reserved-usd" not in headers_of(dispatch)


def test_a_prompt_without_tenant_belongs_to_the_default() -> None:
    """It has no budget until somebody sets one."""
    [unnamed] = route(None)
    [named] = route(None, ("tenant", "default"))
    [limited] = route(Tenant(name="default", usd_per_day=1.0), ("tenant", ""))

    assert [len(records) for records in (unnamed, named, limited)] == [2, 2, 3]
    assert [decision_of(records).tenant for records in (unnamed, named, limited)] == ["default"] * 3


def test_an_unknown_tenant_is_told_so() -> None:
    """The error names those that are known; nothing is decided."""
    [records] = route(ACME, ("tenant", "acne"))

    assert error_of(records)["code"] == "unknown_tenant"
    assert "known: acme, default" in error_of(records)["message"]
    assert "uniroute.decisions" not in {record.topic for record in records}


@pytest.mark.parametrize(
    ("tenant", "wishes", "policy"),
    [
        (Tenant(name="acme"), (), "default@1"),
        (Tenant(name="acme", default_policy="own"), (), "own@1"),
        (Tenant(name="acme", default_policy="own"), (("policy", "default"),), "default@1"),
        (Tenant(name="acme", policies=frozenset({"own"})), (("policy", "own"),), "own@1"),
        (Tenant(name="acme", policies=frozenset({"own"})), (), None),
        (Tenant(name="acme", policies=frozenset()), (("policy", "own"),), None),
    ],
)
def test_a_tenant_uses_the_policies_it_may(
    tenant: Tenant, wishes: Sequence[tuple[str, str]], policy: str | None
) -> None:
    """Its own default where a prompt names none; what it may not use is an error that says what it may."""
    [records] = route(tenant, *wishes)

    if policy is None:
        assert error_of(records)["code"] == "forbidden_policy"
    else:
        assert decision_of(records).policy == policy


def test_a_tenant_uses_the_llms_it_may() -> None:
    """The rest is removed before any score; if the caller wants others, nothing is left, and is told why."""
    tenant = Tenant(name="acme", llms=frozenset({"small", "tiny"}))
    [allowed] = route(tenant)
    [refused] = route(tenant, ("candidates", "large"))

    assert decision_of(allowed).llm == "small"
    assert error_of(refused)["code"] == "no_candidate"
