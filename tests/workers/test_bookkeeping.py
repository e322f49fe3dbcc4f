"""What the learner makes of the usage topic, on the real Postgres: books, lengths and seconds."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from routing.clusters import ClusterMap
from routing.costs import count_usage, fit_latencies, fit_lengths, time_replies
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers import messages
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.learner import Learner, refit, refit_lengths
from workers.messages import CallFact, Message, Record, ReservationRecord, UsageRecord
from workers.settings import Settings
from workers.storage.call_costs import CallBooks
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.grants import Grants
from workers.storage.ledger import Ledger
from workers.storage.lengths import LengthCounts, Lengths
from workers.storage.llms import LLMs, Registration
from workers.storage.snapshots import load_state
from workers.storage.tenants import Tenant, Tenants

pytestmark = pytest.mark.stack

SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)
DAY = date(2027, 1, 31)
NOON = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp())
#: Two resolutions, of one and two cells: three columns.
MAP = ClusterMap(
    centroids=np.eye(3, dtype=np.float32),
    sizes=(1, 2),
    temperature=16.0,
    fingerprint=Fingerprint(name="axes", dimension=3, precision="f32", max_length=8, checksum="a"),
)
PRIOR = fit_pool_prior(np.zeros((0, 2), dtype=np.int32), np.zeros((0, 0)), sizes=(1, 2))


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with LLMs ``a`` and ``b``, the map in force, and a tenant."""
    made = make_engine(migrated_url)
    with transaction(made) as session:
        for name in ("a", "b"):
            register(LLMs(session), name)
        ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
        Tenants(session).add(Tenant(name="acme", usd_per_day=1.0))
    yield made
    made.dispose()


def register(llms: LLMs, name: str) -> None:
    """Register an LLM that was said to write 100 tokens."""
    price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
    llm = LLM(name=name, price=price, expected_output_tokens=100.0)
    llms.register(Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model=name))


def sign(number: int, *, llm: str = "a", cell: int = 1, map_version: str = MAP.version) -> str:
    """Give the id of a decision at noon."""
    facts = DecisionFacts(
        prompt_id=f"p-{number}",
        llm=llm,
        map_version=map_version,
        cells=(0, cell),
        propensity=1.0,
        decided_at=NOON,
    )
    return SIGNER.sign(facts)


def message(value: bytes, *, event: str = messages.USAGE_EVENT) -> Message:
    """Make a message of the usage topic."""
    return Message(
        topic="uniroute.usage",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=b"p",
        value=value,
        headers=(("ce_type", event.encode()),),
    )


def usage(
    number: int,
    *,
    llm: str = "a",
    cell: int = 1,
    tokens: tuple[int, int] | None = (10, 100),
    seconds: float = 1.0,
    cost_usd: float | None = 0.1,
    outcome: str = "ok",
    attempts: int = 1,
    decision_id: str | None = None,
    **told: object,
) -> Message:
    """Make the record of an answer, with whatever else is ``told``."""
    record = UsageRecord(
        **told,  # type: ignore[arg-type]
        usage_id=f"uniroute.dispatch.{llm}/0/{number}",
        prompt_id=f"p-{number}",
        decision_id=decision_id or sign(number, llm=llm, cell=cell),
        llm=llm,
        outcome=outcome,
        attempts=attempts,
        seconds=seconds,
        tenant="acme",
        input_tokens=None if tokens is None else tokens[0],
        output_tokens=None if tokens is None else tokens[1],
        cost_usd=cost_usd,
    )
    return message(messages.encode(record))


def book(engine: Engine, *batch: Message) -> list[list[Record]]:
    """Have a learner handle a batch."""
    return Learner(engine=engine, signer=SIGNER, settings=Settings()).handle(batch)


def settled(engine: Engine) -> Decimal:
    """Give what ``acme`` has spent."""
    with transaction(engine) as session:
        return sum((one.settled for one in Ledger(session).spend("acme", since=DAY, until=DAY)), Decimal(0))


def classes(records: Sequence[Sequence[Record]]) -> list[str]:
    """Give the class of each dead letter, in the order of the messages; empty where there is none."""
    return [
        "".join(value.decode() for one in row for name, value in one.headers if name == "uniroute-dlq-class")
        for row in records
    ]


def test_a_reservation_and_its_usage_are_booked(engine: Engine) -> None:
    """The entry of the router, and that of the executor for the same decision, in one batch or two."""
    with transaction(engine) as session:
        grant = Grants(session).grant("acme", slot="r", day=DAY, need=Decimal("0.5"), share=0.0, lease_s=60.0)
    reserved = ReservationRecord(
        decision_id=sign(1), tenant="acme", grant=grant.id if grant else 0, reserved_usd=0.25
    )
    book(engine, message(messages.encode(reserved), event=messages.RESERVATION_EVENT))
    with transaction(engine) as session:
        before, _ = Grants(session).balances("acme", day=DAY, budgets=(1.0, None))
    book(
        engine, usage(1, cost_usd=0.125), message(messages.encode(reserved), event=messages.RESERVATION_EVENT)
    )
    with transaction(engine) as session:
        after, _ = Grants(session).balances("acme", day=DAY, budgets=(1.0, None))

    assert (before.granted, before.reserved, before.settled) == (Decimal("0.25"), Decimal("0.25"), Decimal(0))
    assert (after.granted, after.reserved, after.settled) == (Decimal("0.25"), Decimal(0), Decimal("0.125"))


def test_what_is_beyond_a_budget_is_booked_and_told_apart(engine: Engine) -> None:
    """.1 and .2 were degraded by the tenant's budget, .4 for another reason, .8 not at all."""
    degraded = ("tenant_budget", "tenant_budget", "llm_failing", "")
    batch = [
        usage(number, cost_usd=2**number / 10, degraded=reason) for number, reason in enumerate(degraded)
    ]
    book(engine, *batch, *batch)
    with transaction(engine) as session:
        of_day, of_month = Grants(session).balances("acme", day=DAY, budgets=(1.0, None))
        [spend] = Ledger(session).spend("acme", since=DAY, until=DAY)

    assert (of_day.settled, of_day.degraded) == (Decimal("1.5"), Decimal("0.3"))
    assert of_month.degraded == Decimal("0.3")
    assert (spend.replies, spend.degraded, spend.degraded_usd) == (4, 2, Decimal("0.3"))


def test_a_period_that_is_no_time_is_a_dead_letter(engine: Engine) -> None:
    """Nothing of its record is booked, be it usage or a reservation."""
    reserved = ReservationRecord(
        decision_id=sign(2), tenant="acme", grant=0, reserved_usd=0.0, policy="p", policy_period=-1
    )
    records = book(
        engine,
        usage(1, policy="p@1", policy_period=2**40),
        message(messages.encode(reserved), event=messages.RESERVATION_EVENT),
    )

    assert classes(records) == ["bad_usage", "bad_usage"]
    assert settled(engine) == 0


def test_lengths_are_those_of_the_raw_rows(engine: Engine) -> None:
    """What batches added up in Postgres fits the same models as all replies at once; twice told is once."""
    rng = np.random.default_rng(0)
    rows = [
        (
            "ab"[int(rng.integers(2))],
            1 + int(rng.integers(2)),
            int(rng.integers(1, 500)),
            float(rng.uniform(0.1, 3)),
        )
        for _ in range(60)
    ]
    batch = [
        usage(number, llm=llm, cell=cell, tokens=(20, out), seconds=seconds)
        for number, (llm, cell, out, seconds) in enumerate(rows)
    ]
    book(engine, *batch[:25])
    book(engine, *batch[20:])
    version = refit_lengths(engine)
    with transaction(engine) as session:
        found = Lengths(session).get(version or 0)
    columns = np.array(["ab".index(row[0]) for row in rows])
    outputs = np.array([float(row[2]) for row in rows])
    raw = count_usage(
        np.array([(0, row[1]) for row in rows], dtype=np.int32),
        columns,
        np.full(60, 20.0),
        outputs,
        n_cells=3,
        n_llms=2,
    )
    lengths = fit_lengths(raw, prior_tokens=np.array([100.0, 100.0]), sizes=(1, 2))
    latencies = fit_latencies(time_replies(columns, outputs, np.array([row[3] for row in rows]), n_llms=2))

    assert found is not None
    assert (found.llms, found.replies.sum()) == (("a", "b"), 60)
    for name in ("levels", "slopes", "offsets", "spreads", "smears"):
        np.testing.assert_allclose(getattr(found.lengths, name), getattr(lengths, name), rtol=1e-9, atol=1e-7)
    for name in ("levels", "slopes", "spreads"):
        np.testing.assert_allclose(getattr(found.latencies, name), getattr(latencies, name), rtol=1e-9)


def test_lengths_are_published_when_there_is_news(engine: Engine) -> None:
    """After 20 replies; then not for 10 more, but for 15: a fifth of 20 and ten. And for another LLM."""
    published = []
    for start, stop in ((0, 19), (19, 20), (20, 30), (30, 35)):
        book(engine, *(usage(number) for number in range(start, stop)))
        published.append(refit_lengths(engine) is not None)
    with transaction(engine) as session:
        register(LLMs(session), "c")
    published.append(refit_lengths(engine) is not None)

    assert published == [False, True, False, True, True]


def test_a_namesake_is_not_expected_to_write_as_much(engine: Engine) -> None:
    """Once another model has the name, lengths are published without what was learned of the first."""
    refit(engine, reason="test")
    book(engine, *(usage(number, llm="ab"[number % 2], tokens=(10, 4000)) for number in range(60)))
    before = refit_lengths(engine)
    with transaction(engine) as session:
        LLMs(session).retire("a")
        register(LLMs(session), "a")
    after = refit_lengths(engine)
    with transaction(engine) as session:
        snapshot = load_state(session).snapshot

    assert before is not None
    assert after is not None
    assert snapshot is not None
    tokens = snapshot.predict_tokens(np.array([[0.5, 0.5, 0.0]], dtype=np.float32), np.array([10.0]))
    assert tokens[0] == pytest.approx([100, 4000], rel=0.1)


def test_routers_see_what_was_learned(engine: Engine) -> None:
    """The snapshot in force predicts the length that answers had, instead of what was registered."""
    refit(engine, reason="test")
    book(engine, *(usage(number, tokens=(10, 400)) for number in range(200)))
    refit_lengths(engine)
    with transaction(engine) as session:
        snapshot = load_state(session).snapshot

    assert snapshot is not None
    weights = np.array([[0.5, 0.5, 0.0]], dtype=np.float32)
    tokens = snapshot.predict_tokens(weights, np.array([10.0]))
    assert tokens[0, 0] == pytest.approx(400.0, rel=0.1)


def test_what_teaches_nothing_is_still_paid_for(engine: Engine) -> None:
    """Errors, answers without usage, LLMs and maps of another database: booked, and not learned from."""
    records = book(
        engine,
        usage(1, outcome="bad_response"),
        usage(2, tokens=None),
        usage(3, llm="stranger"),
        usage(4, decision_id=sign(4, map_version="0" * 16)),
    )
    with transaction(engine) as session:
        counts, _ = LengthCounts(session).read(MAP.version, ["a", "b"], n_cells=3)

    assert records == [[]] * 4
    assert settled(engine) == Decimal("0.4")
    assert counts.replies.sum() == 0


def test_calls_are_booked_by_the_price_that_charged_them(engine: Engine) -> None:
    """Each call of a dispatch under its own LLM and price version, cached tokens apart; the sums are equal.

    Only an answer that came at once from the LLM that was decided on is held against its prediction.
    """
    costs = (0.1, 0.25, 0.125, 0.5)
    at_once = call(10, 100, costs[0], cached_tokens=4, price_version=3)
    failed = CallFact(llm="a", outcome="server", seconds=1.0)
    wasted = call(20, 50, costs[1], outcome="bad_response", price_version=3)
    stood_in = call(30, 60, costs[2], llm="b", cached_tokens=99, price_version=2)
    old = call(40, 70, costs[3])
    batch = [
        usage(1, calls=(at_once,), expected_usd=0.2, cost_usd=costs[0]),
        usage(
            2,
            llm="b",
            decision_id=sign(2),
            calls=(failed, wasted, stood_in),
            expected_usd=0.3,
            cost_usd=0.375,
        ),
        usage(3, calls=(old,), price_version=1, cost_usd=costs[3]),
    ]
    book(engine, *batch)
    book(engine, *batch[1:])
    with transaction(engine) as session:
        found = CallBooks(session).sums(since=DAY)

    sums = {(one.llm, one.rated.price_version): one for one in found}
    assert sorted(sums) == [("a", "1"), ("a", "3"), ("b", "2")]
    charged = sums["a", "3"]
    assert (charged.rated.calls, charged.rated.input_tokens, charged.rated.output_tokens) == (2, 30, 150)
    assert (charged.rated.cached_input_tokens, sums["b", "2"].rated.cached_input_tokens) == (4, 30)
    assert (float(charged.predicted_usd), float(charged.predicted_cost_usd)) == (0.2, 0.1)
    assert sums["a", "1"].predicted_usd == sums["b", "2"].predicted_usd == 0
    assert sum(one.rated.cost_usd for one in found) == pytest.approx(float(settled(engine)))


def test_a_call_of_impossible_cost_is_a_dead_letter(engine: Engine) -> None:
    """Nothing of its record is booked."""
    records = book(engine, usage(1, calls=(call(10, 100, -0.1),)))

    assert classes(records) == ["bad_usage"]
    assert settled(engine) == 0


def test_predicted_and_settled_usd_are_counted_for_prometheus(engine: Engine) -> None:
    """By LLM, once; an LLM that nobody registered is no label."""
    before = [value_of(name) for name in ("settled", "predicted", "predicted_cost")]
    batch = [
        usage(1, calls=(call(10, 100, 0.25),), expected_usd=0.5, cost_usd=0.25),
        usage(2, llm="stranger", calls=(call(1, 1, 1.0, llm="stranger"),), cost_usd=1.0),
    ]
    book(engine, *batch)
    book(engine, *batch)
    after = [value_of(name) for name in ("settled", "predicted", "predicted_cost")]

    assert np.subtract(after, before) == pytest.approx([0.25, 0.5, 0.25])
    assert REGISTRY.get_sample_value("uniroute_settled_usd_total", {"llm": "stranger"}) is None


def test_costs_go_by_the_input_that_an_llm_bills(engine: Engine) -> None:
    """Twice the tokens that routers estimate, and as many: after 400 replies each costs accordingly.

    The lengths of answers go by billed tokens as well, in learning as in use.
    """
    refit(engine, reason="test")
    book(
        engine,
        *(
            usage(
                number, llm=llm, tokens=(per * (50 + number % 100), 1), estimated_tokens=50.0 + number % 100
            )
            for number, (llm, per) in enumerate([("a", 2), ("b", 1)] * 400)
        ),
    )
    refit_lengths(engine)
    with transaction(engine) as session:
        snapshot = load_state(session).snapshot
        inputs = LengthCounts(session).read_inputs(["a", "b"])

    assert snapshot is not None
    assert (inputs.billed / inputs.estimated).tolist() == [2.0, 1.0]
    # 20 pseudo-replies hold each ratio to the pool's, which 20 hold to 1.
    pool = (3 * 400 + 20) / (2 * 400 + 20)
    expected = [(2 * 400 + 20 * pool) / 420, (400 + 20 * pool) / 420]
    asked = np.array([100.0])
    assert snapshot.predict_inputs(asked)[0] / 100 == pytest.approx(expected, rel=0.01)
    nothing = snapshot.predict_costs(asked, np.zeros(2))
    assert nothing[0] * 1e6 == pytest.approx(snapshot.predict_inputs(asked)[0])


def call(
    inputs: int, outputs: int, usd: float, *, llm: str = "a", outcome: str = "ok", **told: int
) -> CallFact:
    """Make what one call took."""
    return CallFact(
        llm=llm,
        outcome=outcome,
        seconds=1.0,
        input_tokens=inputs,
        output_tokens=outputs,
        cost_usd=usd,
        **told,
    )


def value_of(name: str) -> float:
    """Give what a counter of USD of LLM ``a`` stands at."""
    return REGISTRY.get_sample_value(f"uniroute_{name}_usd_total", {"llm": "a"}) or 0.0


def test_an_answer_that_was_kept_costs_nothing(engine: Engine) -> None:
    """Nobody was called for it: its cost is known, and is 0."""
    book(engine, usage(1, attempts=0, cost_usd=None, tokens=None), usage(2, cost_usd=None))
    with transaction(engine) as session:
        [spend] = Ledger(session).spend("acme", since=DAY, until=DAY)

    assert (spend.replies, spend.untold, spend.settled) == (2, 1, Decimal(0))


def test_absurd_tokens_are_bounded(engine: Engine) -> None:
    """An endpoint that counts to 10**40 stops no books."""
    book(engine, usage(1, tokens=(10**15, 10**18)))
    with transaction(engine) as session:
        [spend] = Ledger(session).spend("acme", since=DAY, until=DAY)

    assert (spend.input_tokens, spend.output_tokens) == (2**31 - 1, 2**31 - 1)


def test_poison_among_usage_is_a_dead_letter(engine: Engine) -> None:
    """What no executor of ours wrote is kept aside with its class; the rest is booked."""
    forged = DecisionSigner({0: b"another-secret-key"}, current=0)
    facts = SIGNER.verify(sign(3))
    records = book(
        engine,
        message(b"{"),
        usage(2, cost_usd=-1.0),
        usage(3, decision_id=forged.sign(facts)),
        message(b"{}", event=messages.RESERVATION_EVENT),
        usage(5),
    )

    assert classes(records) == ["not_json", "bad_usage", "forged_decision", "invalid_body", ""]
    assert settled(engine) == Decimal("0.1")


def test_a_reused_name_starts_without_lengths(engine: Engine) -> None:
    """Sums of a retired namesake, perhaps another model, are dropped."""
    book(engine, usage(1, llm="a"), usage(2, llm="b"))
    with transaction(engine) as session:
        LLMs(session).retire("a")
        register(LLMs(session), "a")
    with transaction(engine) as session:
        counts, timings = LengthCounts(session).read(MAP.version, ["a", "b"], n_cells=3)

    assert counts.replies[0].tolist() == [0.0, 1.0]
    assert counts.y[0, 1] == math.log1p(100)
    assert timings.replies.tolist() == [0.0, 1.0]
