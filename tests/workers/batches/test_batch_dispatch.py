import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain, repeat
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_embedders import FakeEmbedder

from routing.clusters.kmeans import fit_cluster_map
from routing.llms import LLM, Price
from routing.snapshot import Snapshot, Versions
from workers import messages
from workers.batches.capacities import Capacities
from workers.batches.dispatching import Dispatched, Dispatcher, name_policy
from workers.batches.folders import BatchFolder
from workers.batches.ingest import Lines, ingest
from workers.batches.planning import Goal, Plan, make_plan
from workers.batches.preparing import Texts, make_goal
from workers.batches.purse import Purse
from workers.batches.rehearsal import Answered, rehearse
from workers.batches.requests import Options, Wishes
from workers.batches.vectors import Vectors
from workers.batches.ways import Paid
from workers.batches.working import hold_against
from workers.calls.gates import Limits as CallLimits
from workers.decision_ids import DecisionSigner
from workers.errors import PoisonError, UsageError, WaitableError
from workers.messages import DecisionRecord, ErrorReply, ReservationRecord
from workers.replay.again import decide_as_logged
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


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk with the lines checked and embedded."""
    embedder = FakeEmbedder()
    lines, vectors = write_lines(BatchFolder(tmp_path / "batch"), tmp_path / "in.jsonl", 20)
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


def test_a_plan_says_what_the_budget_buys(desk: Desk) -> None:
    """Without a budget all lines go to the better LLM; with one for the cheap one alone, all go there."""
    free, tight = desk.plan(Goal()), desk.plan(Goal(budget_usd=20 * CHEAP))

    assert (free.binds, tight.binds) == (None, "budget")
    assert free.total_usd == pytest.approx(20 * DEAR)
    assert tight.total_usd == pytest.approx(20 * CHEAP)
    assert (free.quality, tight.quality) == (pytest.approx(0.9), pytest.approx(0.5))
    assert tight.floor_usd == pytest.approx(20 * CHEAP)


def test_the_quality_to_expect_is_as_uncertain_as_the_error_rates(desk: Desk) -> None:
    """Twenty answers right with .9 vary by .09 / 20 = .0045, a deviation of .02 adds .0004: 1.96 * .07."""
    sure = desk.plan(Goal()).quality_interval
    desk.view = replace(
        desk.view, snapshot=replace(desk.view.snapshot, error_deviations=np.array([[0.05, 0.02]]))
    )

    assert sure == (pytest.approx(0.9 - 1.96 * 0.0045**0.5), 1.0)
    assert desk.plan(Goal()).quality_interval == (pytest.approx(0.9 - 1.96 * 0.07), 1.0)


def test_groups_of_lines_are_as_uncertain_as_their_lines(desk: Desk, tmp_path: Path) -> None:
    """20,100 lines in groups: .09 / 20,100 beside .02 squared."""
    many, vectors = write_lines(BatchFolder(tmp_path / "many"), tmp_path / "many.jsonl", 20_100)
    doubtful = replace(desk.view.snapshot, error_deviations=np.array([[0.05, 0.02]]))

    low, high = make_plan(many, vectors, range(20_100), doubtful, Goal()).quality_interval

    many.close()
    vectors.close()
    assert (high - low) / 2 == pytest.approx(1.96 * (0.09 / 20_100 + 0.0004) ** 0.5)


def test_a_policy_that_needs_to_know_how_sure_errors_are_plans_a_batch(desk: Desk) -> None:
    """The cheap LLM loses .4 against the dear one, at any confidence more than the .03 that it may."""
    body = {"kind": "equivalent-to", "reference": "dear", "delta": 0.03, "confidence": 0.9}
    floor = NamedPolicy.build("floor", 1, body)
    doubtful = replace(desk.view.snapshot, error_deviations=np.array([[0.05, 0.02]]))
    desk.view = replace(desk.view, snapshot=doubtful, policies={"floor": floor})

    plan = desk.plan(make_goal(Options(policy="floor"), desk.view, make_purse(1.0)))

    assert set(plan.llms) == {"dear"}


def test_a_sample_of_many_lines_plans_as_all_of_them_do(desk: Desk, tmp_path: Path) -> None:
    """20,100 lines, all alike: every 21st stands for 21 of them, the last for 3."""
    many, vectors = write_lines(BatchFolder(tmp_path / "many"), tmp_path / "many.jsonl", 20_100)
    goal, rows = Goal(budget_usd=20_100 * CHEAP + 1e-9), range(20_100)

    whole = make_plan(many, vectors, rows, desk.view.snapshot, goal)
    sample = make_plan(many, vectors, rows, desk.view.snapshot, goal, most=1_000)

    many.close()
    vectors.close()
    assert whole.llms == {"cheap": {"lines": 20_100.0, "usd": pytest.approx(20_100 * CHEAP)}}
    assert sample.llms == {"cheap": {"lines": 20_100.0, "usd": pytest.approx(20_100 * CHEAP)}}
    assert (sample.lines, sample.binds, sample.quality) == (20_100, whole.binds, pytest.approx(whole.quality))


def test_a_least_quality_is_met_at_the_least_cost(desk: Desk) -> None:
    """0.5 is had for the cheap LLM's price; 0.6 is not, so the better one is taken."""
    assert desk.plan(Goal(min_quality=0.5)).total_usd == pytest.approx(20 * CHEAP)
    assert desk.plan(Goal(min_quality=0.6)).total_usd == pytest.approx(20 * DEAR)


def test_a_dispatch_is_on_the_batch_lane_and_says_what_it_reserves(desk: Desk) -> None:
    """Each line is a dispatch and a decision; twice the expected cost is reserved for it."""
    found = desk.dispatch(desk.plan(Goal()), make_purse(1.0))

    first = found.records[0]
    headers = dict(first.headers)
    assert found.step.lines == 20
    assert len(found.records) == 40
    assert first.topic == "uniroute.dispatch-batch.dear" or "batch" in first.topic
    assert first.key == b"batch_1:1"
    assert headers[messages.LANE] == b"batch"
    assert float(headers[messages.RESERVED_USD]) == pytest.approx(2 * DEAR)
    assert float(found.step.reserved_usd) == pytest.approx(40 * DEAR)


def test_lines_wait_for_money_that_is_under_way(desk: Desk) -> None:
    """10 USD reserved of 10: nothing goes out, and nothing is refused."""
    found = desk.dispatch(desk.plan(Goal()), make_purse(10.0, reserved_usd=10.0))

    assert (found.step.lines, found.records) == (0, [])


def test_a_squeezed_line_keeps_the_cheapest_service_of_the_others(desk: Desk) -> None:
    """What is left pays for all lines at the cheap LLM: the first gets that, whatever the plan prefers."""
    plan = replace_plan(desk.plan(Goal()), error_per_usd=0.0)

    found = desk.dispatch(plan, make_purse(2 * 20 * CHEAP * 1.0001), range(1))

    assert found.step.lines == 1
    assert [one.llm for one in read_decisions(found)] == ["cheap"]


def test_what_nothing_pays_for_is_refused_with_a_reason(desk: Desk) -> None:
    """Money for three lines and for what one may overrun: three go out; then the rest end."""
    plan, budget = desk.plan(Goal(budget_usd=3 * CHEAP)), (3 + 3) * 2 * CHEAP * 1.0001

    first = desk.dispatch(plan, make_purse(budget))
    rest = desk.dispatch(plan, make_purse(CHEAP), range(3, 20))

    assert first.step.lines == 3
    assert [one.llm for one in read_decisions(first)] == ["cheap"] * 3
    assert rest.step.lines == 17
    errors = [msgspec.json.decode(record.value or b"", type=ErrorReply).error.code for record in rest.records]
    assert errors == ["budget_exhausted"] * 17
    assert {record.topic for record in rest.records} == {WISHES.reply_to}


def test_decisions_come_out_the_same_when_they_are_made_again(desk: Desk) -> None:
    """Those that the budget squeezed among them: their record holds what was left."""
    plan = replace_plan(desk.plan(Goal()), error_per_usd=0.0)
    squeezed = desk.dispatch(plan, make_purse(2 * 20 * CHEAP * 1.0001), range(1))
    logged = [*read_decisions(desk.dispatch(plan, make_purse(9.0))), *read_decisions(squeezed)]

    again = {
        record.decision_id: decisions.llm(row)
        for group, decisions in decide_as_logged(logged, desk.view.snapshot)
        for row, record in enumerate(group)
    }

    assert again == {record.decision_id: record.llm for record in logged}
    assert {record.llm for record in logged} == {"cheap", "dear"}


def replace_plan(plan: Plan, **changes: object) -> Plan:
    """Give a plan with other figures."""
    return msgspec.structs.replace(plan, **changes)


def test_no_purse_can_be_overdrawn(desk: Desk) -> None:
    """Whatever is left, what goes out reserves no more, with what the largest may overrun."""
    plan = desk.plan(Goal())
    for share in (0.1, 0.35, 0.8, 1.7):
        left = share * 20 * DEAR
        found = desk.dispatch(plan, replace(make_purse(left), spent_usd=Decimal(0)))

        assert float(found.step.reserved_usd) + 3 * found.step.largest_usd <= left
        assert found.step.lines > 0


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


def test_a_line_reserves_of_its_tenants_budget_too(desk: Desk) -> None:
    """Money for two and a half lines: two go out, each with its entry for the books; the third waits."""
    dispatcher = serve_tenant(desk, Tenant(name="blue", usd_per_day=1.0), lend(2.5 * 2 * DEAR))
    plan = desk.plan(Goal())

    found = dispatcher.dispatch(range(20), desk.view, plan, make_purse(1.0))

    booked = [
        msgspec.json.decode(record.value or b"", type=ReservationRecord)
        for record in found.records
        if record.topic == "uniroute.usage"
    ]
    assert (found.step.lines, found.waits_for_tenant) == (2, True)
    assert [(one.tenant, one.grant) for one in booked] == [("blue", 7)] * 2
    assert sum(one.reserved_usd for one in booked) == pytest.approx(4 * DEAR, rel=1e-6)


def test_a_line_that_its_tenant_cannot_pay_for_ends_once_nobody_waits(desk: Desk) -> None:
    """The error is the one that a live prompt gets; the batch's own budget is not touched by it."""
    dispatcher = serve_tenant(desk, Tenant(name="blue", usd_per_day=1.0), lend(0.0))

    found = dispatcher.dispatch(range(3), desk.view, desk.plan(Goal()), make_purse(1.0), patient=False)

    errors = [msgspec.json.decode(record.value or b"", type=ErrorReply).error for record in found.records]
    assert [one.code for one in errors] == ["budget_exhausted"] * 3
    assert "tenant blue" in errors[0].message
    assert (found.step.lines, found.step.reserved_usd) == (3, 0)


def test_a_tenant_to_be_degraded_gets_its_cheapest_llm(desk: Desk) -> None:
    """As live prompts do, and the decision says so."""
    dispatcher = serve_tenant(desk, Tenant(name="blue", usd_per_day=1.0, at_limit="degrade"), lend(0.0))

    found = dispatcher.dispatch(range(1), desk.view, desk.plan(Goal()), make_purse(1.0), patient=False)

    [decision] = read_decisions(found)
    assert (decision.llm, decision.degraded) == ("cheap", "tenant_budget")


def test_a_plan_knows_the_llms_of_its_tenant(desk: Desk) -> None:
    """Where the tenant may use the cheap LLM alone, the plan is for that one, and so are the decisions."""
    tenant = Tenant(name="blue", llms=frozenset({"cheap"}))
    dispatcher = serve_tenant(desk, tenant, lend(0.0))
    plan = desk.plan(make_goal(Options(min_quality=0.0), desk.view, make_purse(1.0), tenant="blue"))

    found = dispatcher.dispatch(range(20), desk.view, plan, make_purse(1.0))

    assert set(plan.llms) == {"cheap"}
    assert plan.total_usd == pytest.approx(20 * CHEAP)
    assert {one.llm for one in read_decisions(found)} == {"cheap"}


def test_a_policy_that_a_tenant_may_not_use_is_refused(desk: Desk) -> None:
    """Before anything is planned."""
    desk.view = replace(desk.view, tenants={"blue": Tenant(name="blue", policies=frozenset({"thrift"}))})

    with pytest.raises(UsageError, match="may not use policy 'dear'; allowed: thrift"):
        make_goal(Options(policy="dear"), desk.view, make_purse(1.0), tenant="blue")


def test_a_policy_that_is_away_is_waited_for(desk: Desk) -> None:
    """Nothing is decided by anything else meanwhile; once it is back its choice is the lines'."""
    cheapest = NamedPolicy.build("cheapest", 1, {"kind": "fixed", "llm": "cheap"})
    plan, there = replace_plan(desk.plan(Goal()), policy="cheapest", error_per_usd=None), desk.view

    with pytest.raises(WaitableError, match="policy cheapest is away"):
        desk.dispatch(plan, make_purse(1.0))
    desk.view = replace(there, policies={"cheapest": cheapest})
    found = desk.dispatch(plan, make_purse(1.0))

    assert {one.llm for one in read_decisions(found)} == {"cheap"}


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


def test_a_line_is_decided_by_the_policy_that_it_names(desk: Desk, tmp_path: Path) -> None:
    """As a live prompt is, and refused as one: between them the others go by the plan."""
    models = ("auto", "auto/thrift", "auto/none", "auto/thrift", "auto/left", "auto/paced", "auto")
    tenant = Tenant(name="blue")
    dispatcher = serve_tenant(name_policies(desk, tmp_path, *models), tenant, lend(0.0))

    found = dispatcher.dispatch(range(7), desk.view, desk.plan(Goal()), make_purse(1.0))

    desk.lines.close()
    decided = [(one.prompt_id[-1], one.llm, one.policy) for one in read_decisions(found)]
    refused = [
        msgspec.json.decode(record.value or b"", type=ErrorReply).error.code
        for record in found.records
        if record.topic == WISHES.reply_to
    ]
    assert found.step.lines == 7
    assert float(found.step.reserved_usd) == pytest.approx(4 * DEAR + 4 * CHEAP)
    assert decided == [
        ("1", "dear", "batch/batch_1@1"),
        ("2", "cheap", "thrift@3"),
        ("4", "cheap", "thrift@3"),
        ("7", "dear", "batch/batch_1@1"),
    ]
    assert refused == ["unknown_policy", "unusable_policy", "unusable_policy"]


def test_lines_of_several_policies_are_paid_from_one_purse(desk: Desk, tmp_path: Path) -> None:
    """Money for two dear lines, a cheap one and what the largest may overrun: the fourth waits for it."""
    name_policies(desk, tmp_path, "auto", "auto", "auto/thrift", "auto")
    dispatcher = serve_tenant(desk, Tenant(name="blue"), lend(0.0))
    plan, wanted = replace_plan(desk.plan(Goal()), floor_usd=0.0), 2 * (2 * DEAR + CHEAP) + 3 * 2 * DEAR

    found = dispatcher.dispatch(range(4), desk.view, plan, make_purse(1.0001 * wanted))

    desk.lines.close()
    assert [one.llm for one in read_decisions(found)] == ["dear", "dear", "cheap"]


def test_a_line_names_a_policy_that_its_tenant_may_not_use(desk: Desk, tmp_path: Path) -> None:
    """It is refused as a live prompt is."""
    tenant = Tenant(name="blue", policies=frozenset({"other"}))
    dispatcher = serve_tenant(name_policies(desk, tmp_path, "auto/thrift"), tenant, lend(0.0))

    [record] = dispatcher.dispatch(range(1), desk.view, desk.plan(Goal()), make_purse(1.0)).records

    desk.lines.close()
    assert msgspec.json.decode(record.value or b"", type=ErrorReply).error.code == "forbidden_policy"


def test_a_plan_by_a_policy_that_cannot_choose_is_refused(desk: Desk) -> None:
    """Its LLM has left: the batch fails with the reason."""
    gone = NamedPolicy.build("left", 1, {"kind": "fixed", "llm": "gone"})
    desk.view = replace(desk.view, policies={"left": gone})

    with pytest.raises(UsageError, match=r"the policy cannot choose: .*gone"):
        desk.plan(make_goal(Options(policy="left"), desk.view, make_purse(1.0)))


def test_a_tenant_that_nobody_declared_gets_nothing(desk: Desk) -> None:
    """As on the ingest topic: neither when the lines are planned nor once the tenant was removed."""
    dispatcher = serve_tenant(desk, Tenant(name="blue"), lend(0.0))
    plan, gone = desk.plan(Goal()), replace(desk.view, tenants={})

    with pytest.raises(PoisonError, match="no tenant is named 'blue'; known: default"):
        make_goal(Options(), gone, make_purse(1.0), tenant="blue")
    with pytest.raises(PoisonError, match="no tenant is named 'blue'; known: default"):
        dispatcher.dispatch(range(20), gone, plan, make_purse(1.0))


def test_a_policy_with_a_budget_of_its_own_is_refused(desk: Desk) -> None:
    """What a batch spends would escape that budget."""
    paced = NamedPolicy.build("paced", 1, {"kind": "budget", "usd": 1.0, "per": "day"})
    desk.view = replace(desk.view, policies={**desk.view.policies, "paced": paced})

    with pytest.raises(UsageError, match="policy paced spends a budget of its own"):
        make_goal(Options(policy="paced"), desk.view, make_purse(1.0))


def test_costs_are_held_against_what_would_be_predicted_now(desk: Desk) -> None:
    """300 calls at twice their prediction, drawn to 1 by a hundred in thought: (300 * 2 + 100) / 400."""
    paid = [Paid(row=row % 20, llm="dear", usd=2 * DEAR) for row in range(300)]
    unknown = [Paid(row=0, llm="gone", usd=1.0)]

    found = hold_against([*paid, *unknown], desk.lines, desk.vectors, desk.view.snapshot)

    assert found == pytest.approx(1.75)
    assert hold_against(unknown, desk.lines, desk.vectors, desk.view.snapshot) == 1.0


def test_an_llm_that_takes_few_lines_until_the_deadline_gets_no_more(desk: Desk) -> None:
    """Nine places for 20 lines are worth what they save, .5 - .1; lines all alike then take the cheaper."""
    scarce = Capacities(limits={"dear": CallLimits(requests_per_minute=10.0)}, seconds_left=60.0)

    plan = desk.plan(Goal(capacities=scarce))
    named = name_policy(plan, "batch_1", desk.view)

    assert plan.binds == "capacity of dear"
    assert plan.surcharges == {"dear": pytest.approx(0.4)}
    assert set(plan.llms) == {"cheap"}
    assert named.body["surcharges"] == plan.surcharges


def test_a_plan_says_how_long_the_llms_limits_make_it_last(desk: Desk) -> None:
    """20 lines of 101 tokens at 1,010 tokens a minute take two minutes; where nothing is known, nothing."""
    slow = Capacities(limits={"dear": CallLimits(tokens_per_minute=1_010.0)})

    assert desk.plan(Goal(capacities=slow)).seconds == pytest.approx(120.0)
    assert desk.plan(Goal()).seconds is None


def test_a_deadline_that_no_choice_meets_is_told(desk: Desk) -> None:
    """Both LLMs together take nine lines in time: the plan is as if they took more, and says what binds."""
    limits = {name: CallLimits(requests_per_minute=5.0) for name in ("cheap", "dear")}

    plan = desk.plan(Goal(capacities=Capacities(limits=limits, seconds_left=60.0)))

    assert (plan.binds, plan.surcharges) == ("deadline", {"dear": pytest.approx(0.4)})
    assert plan.seconds == pytest.approx(20 / 5 * 60)


def test_a_plan_made_later_says_what_was_published_before_it(desk: Desk, tmp_path: Path) -> None:
    """Prices change while the first lines are under way, long before it is time to plan again."""
    changed = replace(desk.view.snapshot, versions=Versions(error_rates="1", prices="2"))
    views = chain([desk.view] * 2, repeat(replace(desk.view, snapshot=changed)))
    write_requests(tmp_path / "more.jsonl", 500)

    played = rehearse(
        tmp_path / "more.jsonl",
        Options(budget_usd=1.0),
        view=lambda: next(views),
        answer=lambda _row, llm: Answered(
            cost_usd={"cheap": CHEAP, "dear": DEAR}[llm], input_tokens=1, output_tokens=100
        ),
        folder=tmp_path / "work",
        settings=SETTINGS,
    )

    assert played.plans[0].reason == "first"
    assert played.plans[1].reason.startswith("error rates, prices or lengths have changed")
    assert not any("changed" in plan.reason for plan in played.plans[2:])


def test_a_quality_that_was_asked_for_comes_before_the_deadline(desk: Desk) -> None:
    """.8 on average need the dear LLM for 15 of 20 lines, which takes nine in time: it gets all the same."""
    scarce = Capacities(limits={"dear": CallLimits(requests_per_minute=10.0)}, seconds_left=60.0)

    plan = desk.plan(Goal(min_quality=0.8, capacities=scarce))

    assert plan.quality >= 0.8
    assert (plan.binds, plan.surcharges) == ("quality", {})


def test_lines_wait_while_the_policy_of_their_batch_cannot_choose(desk: Desk) -> None:
    """Its LLM is away, and no line is at fault: none is refused."""
    gone = NamedPolicy.build("gone", 1, {"kind": "fixed", "llm": "absent"})
    desk.view = replace(desk.view, policies={**desk.view.policies, "gone": gone})
    plan = replace_plan(desk.plan(Goal()), policy="gone")

    with pytest.raises(WaitableError, match="gone cannot choose"):
        desk.dispatch(plan, make_purse(1.0))
