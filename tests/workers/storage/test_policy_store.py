import pytest
from sqlalchemy import Engine

from workers.storage.engine import transaction
from workers.storage.policies import Policies
from workers.storage.routing_state import RoutingState

pytestmark = pytest.mark.stack


def test_a_policy_gets_a_version_per_change_and_the_last_is_in_force(engine: Engine) -> None:
    """Versions count from 1 for each name; older ones stay readable."""
    with transaction(engine) as session:
        policies = Policies(session)
        numbers = [
            policies.put("default", {"error_per_usd": 1.0}),
            policies.put("default", {"error_per_usd": 2.0}),
            policies.put("cheap", {"error_per_usd": 90.0}),
        ]
    with transaction(engine) as session:
        current = Policies(session).current()
        first = Policies(session).get("default", 1)
        none = Policies(session).get("default", 3)

    assert numbers == [1, 2, 1]
    assert current == {"cheap": (1, {"error_per_usd": 90.0}), "default": (2, {"error_per_usd": 2.0})}
    assert first == {"error_per_usd": 1.0}
    assert none is None


def test_the_same_body_again_is_no_new_version(engine: Engine) -> None:
    """Applying a file twice changes nothing, and routers need not look again."""
    with transaction(engine) as session:
        Policies(session).put("default", {"error_per_usd": 0.1})
        before = RoutingState(session).version()
        again = Policies(session).put("default", {"error_per_usd": 0.1})
        after = RoutingState(session).version()

    assert again == 1
    assert after == before


def test_a_new_version_moves_the_state(engine: Engine) -> None:
    """Routers look again after a change of policy."""
    with transaction(engine) as session:
        Policies(session).put("default", {"error_per_usd": 0.1})

        assert RoutingState(session).version() == 1
