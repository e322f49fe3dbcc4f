"""Logged traffic decided again: the same bits with nothing changed, a plan with something changed."""

import msgspec
import pytest
from logged_traffic import Office

from routing.errors import InvalidInputError, UnknownLLMError
from routing.llms import Price
from workers.errors import UsageError
from workers.local.demo.replaying import decide_again
from workers.replay import (
    apply_policies,
    complete_presets,
    hash_plan,
    plan_from_log,
    plan_from_now,
    replay,
    roll_back,
)
from workers.storage.engine import transaction
from workers.storage.policies import Policies
from workers.storage.prices import Prices
from workers.storage.tenants import Tenant, Tenants

pytestmark = pytest.mark.stack

DOUBLED = {"large": Price(input_usd_per_mtok=20.0, output_usd_per_mtok=20.0)}
CHEAPEST = {"default": {"kind": "lagrangian", "error_per_usd": 1000.0}}


def test_unchanged_traffic_comes_out_the_same(office: Office) -> None:
    """Every decision has equal bits, whatever was put in force since: prices, policies, a canary's draws."""
    bodies = {"canary": {"kind": "weighted", "weights": {"large": 1, "small": 3}}}
    apply_policies(office.engine, bodies)
    records = office.traffic() + office.route(["0 a", "1 b", "2 c"] * 5, model="auto/canary")
    apply_policies(office.engine, CHEAPEST)
    with transaction(office.engine) as session:
        Prices(session).set("large", DOUBLED["large"])
    records += office.traffic(1)

    found = replay(office.engine, records)

    assert {record.llm for record in records if record.policy == "canary@1"} == {"large", "small"}
    assert (found.decisions, found.identical, found.changed) == (39, 39, ())


def test_a_decision_that_was_tampered_with_is_told(office: Office) -> None:
    """A bit of the weights is enough."""
    records = office.traffic(1)
    records[1] = msgspec.structs.replace(records[1], propensity=0.5)

    found = replay(office.engine, records)

    assert (found.decisions, found.identical) == (4, 3)
    assert [change.prompt_id for change in found.changed] == ["p-1"]


def test_doubled_prices_of_the_dearest_llm_lower_its_share(office: Office) -> None:
    """At lambda 100 ``large`` has to gain .232 and takes half; at the double price .49, a quarter."""
    plan = plan_from_log(office.engine, office.traffic(), prices=DOUBLED).as_json()

    assert plan["llms"]["large"]["before"]["share"] == 0.5
    assert plan["llms"]["large"]["after"]["share"] == 0.25
    assert plan["moved"] == 5
    assert plan["clusters"]["2"]["moved"] == 5
    # Cell 2: .1 wrong with large, .4 with small; in all five rounds.
    assert plan["clusters"]["2"]["before"]["quality"] == pytest.approx(0.9)
    assert plan["clusters"]["2"]["after"]["quality"] == pytest.approx(0.6)
    # 5 rounds of 2 large at .00258 and 2 small at .000258; then of 1 large at .00516 and 3 small.
    assert plan["total"]["before"]["usd"] == pytest.approx(5 * (2 * 0.00258 + 2 * 0.000258))
    assert plan["total"]["after"]["usd"] == pytest.approx(5 * (0.00516 + 3 * 0.000258))


def test_a_demonstration_is_decided_again_at_twice_the_dearest_price(office: Office) -> None:
    """The same twenty decisions, and ``large`` at twice its price as above; of nothing, nothing."""
    assert decide_again(office.engine, office.traffic()) == {
        "decisions": 20,
        "identical": 20,
        "doubled": {"llm": "large", "share_before": 0.5, "share_after": 0.25},
    }
    assert decide_again(office.engine, []) == {"decisions": 0, "identical": 0, "doubled": None}


def test_a_price_of_an_llm_that_nobody_knows_is_refused(office: Office) -> None:
    """A name that is misspelt would change nothing, and be believed."""
    with pytest.raises(UnknownLLMError, match="no LLM is named 'lagre'; registered: large, small"):
        plan_from_log(office.engine, office.traffic(1), prices={"lagre": DOUBLED["large"]})


def test_a_plan_tells_moves_by_tenant(office: Office) -> None:
    """What each tenant's prompts would go to, under a policy that only looks at cost."""
    with transaction(office.engine) as session:
        Tenants(session).add(Tenant(name="acme"))
    records = office.route(["3 a"] * 3, ("uniroute-tenant", b"acme")) + office.route(["0 a"])

    plan, _ = plan_from_now(office.engine, records, bodies=CHEAPEST)
    found = plan.as_json()

    assert found["tenants"]["acme"]["moved"] == 3
    assert found["tenants"]["default"]["moved"] == 0
    assert found["llms"]["large"]["after"]["decisions"] == 0
    assert found["llms"]["small"]["after"]["decisions"] == 4


def test_a_plan_that_holds_is_applied(office: Office) -> None:
    """The hash is the same as long as neither traffic nor state has moved."""
    records = office.traffic()
    plan, state = plan_from_now(office.engine, records, bodies=CHEAPEST)
    again, same = plan_from_now(office.engine, records, bodies=CHEAPEST)

    applied = apply_policies(office.engine, CHEAPEST, state_version=state)

    assert state == same
    assert hash_plan(CHEAPEST, records, plan, state_version=state) == hash_plan(
        CHEAPEST, records, again, state_version=same
    )
    assert applied == {"default": 2}
    assert {record.llm for record in office.traffic(1)} == {"small"}


def test_a_plan_does_not_outlive_its_state(office: Office) -> None:
    """A price that was set meanwhile refuses it, and nothing is applied."""
    records = office.traffic()
    plan, state = plan_from_now(office.engine, records, bodies=CHEAPEST)
    before = hash_plan(CHEAPEST, records, plan, state_version=state)
    with transaction(office.engine) as session:
        Prices(session).set("large", DOUBLED["large"])

    later, moved = plan_from_now(office.engine, records, bodies=CHEAPEST)

    assert hash_plan(CHEAPEST, records, later, state_version=moved) != before
    with pytest.raises(UsageError, match="has moved since"):
        apply_policies(office.engine, CHEAPEST, state_version=state)
    with transaction(office.engine) as session:
        assert Policies(session).current()["default"][0] == 1


def test_a_plan_does_not_outlive_its_traffic(office: Office) -> None:
    """One more decision is another plan, and so is another file."""
    records = office.traffic()
    plan, state = plan_from_now(office.engine, records, bodies=CHEAPEST)
    before = hash_plan(CHEAPEST, records, plan, state_version=state)

    more = [*records[1:], *office.route(["0 a"])]
    later, _ = plan_from_now(office.engine, more, bodies=CHEAPEST)
    other = {"default": {"kind": "lagrangian", "error_per_usd": 1001.0}}

    assert hash_plan(CHEAPEST, more, later, state_version=state) != before
    assert hash_plan(other, records, plan, state_version=state) != before


def test_policies_apply_all_or_none(office: Office) -> None:
    """One that names an LLM which nobody registered takes the others with it."""
    bodies = {**CHEAPEST, "pinned": {"kind": "fixed", "llm": "huge"}}

    with pytest.raises(
        InvalidInputError, match="policy pinned: no LLM is named 'huge'; registered: large, small"
    ):
        apply_policies(office.engine, bodies)
    with pytest.raises(InvalidInputError, match="no LLM is named 'huge'"):
        plan_from_now(office.engine, [], bodies=bodies)

    with transaction(office.engine) as session:
        assert Policies(session).current()["default"][0] == 1


def test_a_rollback_is_a_new_version_with_the_old_body(office: Office) -> None:
    """History only grows."""
    apply_policies(office.engine, CHEAPEST)

    assert roll_back(office.engine, "default") == (1, 3)
    with transaction(office.engine) as session:
        history = Policies(session).history("default")
    assert [one.version for one in history] == [1, 2, 3]
    assert history[2].body == history[0].body == {"kind": "lagrangian", "error_per_usd": 100.0}
    with pytest.raises(UsageError, match="has no version 9: there are 1 to 3"):
        roll_back(office.engine, "default", version=9)
    with pytest.raises(UsageError, match="no policy is named 'other'"):
        roll_back(office.engine, "other")


def test_a_budget_is_tried_on_logged_traffic(office: Office) -> None:
    """Ten rounds of four prompts at .00258 or .000258 USD under .02 a day: never above it."""
    records = office.traffic(10)
    bodies = {"default": {"kind": "budget", "usd": 0.02, "per": "day"}}

    now, _ = plan_from_now(office.engine, records, bodies=bodies)
    then = plan_from_log(office.engine, records, bodies=bodies)

    for plan in (now.as_json(), then.as_json()):
        assert plan["total"]["before"]["usd"] == pytest.approx(20 * 0.00258 + 20 * 0.000258)
        assert 0 < plan["total"]["after"]["usd"] <= 0.02
        assert plan["llms"]["large"]["after"]["share"] < 0.5


def test_a_tenant_that_explores_nothing_explores_nothing_in_plans(office: Office) -> None:
    """A policy that always explores moves the other half of the traffic alone, from the log and from now."""
    with transaction(office.engine) as session:
        Tenants(session).add(Tenant(name="quiet", exploration_share=0.0))
    records = [
        msgspec.structs.replace(record, tenant="quiet" if row % 2 else "")
        for row, record in enumerate(office.traffic(10))
    ]
    explore = {"share": 1.0, "band": 1.0}
    bodies = {"default": {"kind": "lagrangian", "error_per_usd": 100.0, "explore": explore}}

    now, _ = plan_from_now(office.engine, records, bodies=bodies)
    then = plan_from_log(office.engine, records, bodies=bodies)

    for plan in (now.as_json(), then.as_json()):
        assert plan["tenants"]["quiet"]["moved"] == 0
        assert plan["total"]["moved"] > 0


def test_a_preset_is_weighed_on_the_dearest_llm_of_its_day(office: Office) -> None:
    """500 tokens in and 256 out of ``large``, at 10 USD per million: .00756 USD, from then on."""
    completed = complete_presets(
        office.engine, {"thrifty": {"kind": "cost-first"}, "mine": {"kind": "fixed"}}
    )
    apply_policies(office.engine, {"thrifty": completed["thrifty"]})
    with transaction(office.engine) as session:
        Prices(session).set("large", DOUBLED["large"])

    again = complete_presets(office.engine, {"thrifty": completed["thrifty"]})

    assert completed == {
        "thrifty": {"kind": "cost-first", "reference_cost_usd": 0.00756},
        "mine": {"kind": "fixed"},
    }
    assert again["thrifty"] == completed["thrifty"]
