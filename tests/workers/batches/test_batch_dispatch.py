from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest
from batch_desk import CHEAP, DEAR, WISHES, Desk, make_purse, read_decisions, replace_plan

from workers import messages
from workers.batches.planning import Goal
from workers.messages import ErrorReply
from workers.replay.again import decide_as_logged


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


def test_no_purse_can_be_overdrawn(desk: Desk) -> None:
    """Whatever is left, what goes out reserves no more, with what the largest may overrun."""
    plan = desk.plan(Goal())
    for share in (0.1, 0.35, 0.8, 1.7):
        left = share * 20 * DEAR
        found = desk.dispatch(plan, replace(make_purse(left), spent_usd=Decimal(0)))

        assert float(found.step.reserved_usd) + 3 * found.step.largest_usd <= left
        assert found.step.lines > 0
