from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from batch_desk import CHEAP, DEAR, SETTINGS, Desk, make_purse, write_lines, write_requests

from routing.snapshot import Versions
from workers.batches.capacities import Capacities
from workers.batches.dispatching import name_policy
from workers.batches.folders import BatchFolder
from workers.batches.planning import Goal, make_plan
from workers.batches.preparing import make_goal
from workers.batches.rehearsal import Answered, rehearse
from workers.batches.requests import Options
from workers.batches.ways import Paid
from workers.batches.working import hold_against
from workers.calls.gates import Limits as CallLimits
from workers.router import NamedPolicy


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


def test_costs_are_held_against_what_would_be_predicted_now(desk: Desk) -> None:
    """300 calls at twice their prediction, drawn to 1 by a hundred in thought: (300 * 2 + 100) / 400."""
    paid = [Paid(row=row % 20, llm="dear", usd=2 * DEAR) for row in range(300)]
    unknown = [Paid(row=0, llm="gone", usd=1.0)]

    found = hold_against([*paid, *unknown], desk.lines, desk.vectors, desk.view.snapshot)

    assert found == pytest.approx(1.75)
    assert hold_against(unknown, desk.lines, desk.vectors, desk.view.snapshot) == 1.0
