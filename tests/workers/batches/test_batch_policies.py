from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from batch_desk import (
    CHEAP,
    DEAR,
    WISHES,
    Desk,
    lend,
    make_purse,
    name_policies,
    read_decisions,
    replace_plan,
    serve_tenant,
)

from workers.batches.planning import Goal
from workers.batches.preparing import make_goal
from workers.batches.requests import Options
from workers.errors import PoisonError, UsageError, WaitableError
from workers.messages import ErrorReply, ReservationRecord
from workers.router import NamedPolicy
from workers.storage.tenants import Tenant


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


def test_lines_wait_while_the_policy_of_their_batch_cannot_choose(desk: Desk) -> None:
    """Its LLM is away, and no line is at fault: none is refused."""
    gone = NamedPolicy.build("gone", 1, {"kind": "fixed", "llm": "absent"})
    desk.view = replace(desk.view, policies={**desk.view.policies, "gone": gone})
    plan = replace_plan(desk.plan(Goal()), policy="gone")

    with pytest.raises(WaitableError, match="gone cannot choose"):
        desk.dispatch(plan, make_purse(1.0))
