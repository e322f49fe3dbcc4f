"""How a policy's body says how much it explores, and what a tenant makes of that."""

from typing import Any

import pytest

from routing.errors import InvalidInputError
from routing.policies import Ceiling, Exploration, Lagrangian
from workers.policies import explore_at_least, read_policy

PLAIN: dict[str, Any] = {"kind": "lagrangian", "error_per_usd": 5.0}


def test_a_policy_may_explore() -> None:
    """Any kind takes the key; the band is .02 unless it says otherwise; a share of 0 is none."""
    found = read_policy("p", {**PLAIN, "explore": {"share": 0.05, "max_usd": 0.01}}).policy
    none = read_policy("p", {**PLAIN, "explore": {"share": 0}}).policy

    assert found == Exploration(policy=Lagrangian(5.0), share=0.05, band=0.02, max_exploration_usd=0.01)
    assert none == Lagrangian(5.0)


def test_a_budget_explores_under_its_ceiling() -> None:
    """What is explored is spent too."""
    declared = read_policy("p", {"kind": "budget", "usd": 1.0, "explore": {"share": 0.1, "band": 0.3}})

    assert declared.budget is not None
    policy = declared.budget.in_force(error_per_usd=2.0, remaining_usd=0.5)
    assert isinstance(policy, Ceiling)
    assert policy.policy == Exploration(policy=Lagrangian(2.0), share=0.1, band=0.3)


@pytest.mark.parametrize(
    ("explore", "problem"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"band": 0.1}, "share is missing"),
        ({"share": 0.1, "banned": 1}, "unknown key 'banned'"),
        (0.1, "give a mapping"),
    ],
)
def test_what_cannot_be_explored_is_told(explore: Any, problem: str) -> None:
    """With the policy's name and the key."""
    with pytest.raises(InvalidInputError, match=problem):
        read_policy("p", {**PLAIN, "explore": explore})


def test_a_cascade_does_not_explore() -> None:
    """It asks several LLMs anyway."""
    body = {
        "kind": "cascade",
        "llms": ["a", "b"],
        "accept": 0.8,
        "calibration": {"confidences": [-1.0, 0.0], "chances": [0.5, 1.0]},
        "explore": {"share": 0.1},
    }

    with pytest.raises(InvalidInputError, match="does not go with a cascade"):
        read_policy("p", body)


def test_a_tenant_has_a_floor_or_an_end() -> None:
    """0 takes the key away, a floor raises the share or brings the key in, and else the body is the same."""
    exploring = {**PLAIN, "explore": {"share": 0.05, "band": 0.1}}

    assert explore_at_least(exploring, None) is exploring
    assert explore_at_least(exploring, 0.01) is exploring
    assert explore_at_least(PLAIN, 0.0) is PLAIN
    assert explore_at_least(exploring, 0.0) == PLAIN
    assert explore_at_least(exploring, 0.2) == {**PLAIN, "explore": {"share": 0.2, "band": 0.1}}
    assert explore_at_least(PLAIN, 0.2) == {**PLAIN, "explore": {"share": 0.2}}
