"""How a batch notices that an LLM is slow."""

import pytest

from workers.batches.capacities import Capacities
from workers.batches.paces import Paces, Slow
from workers.calls.gates import Limits


def test_an_llm_that_keeps_lines_waiting_takes_what_it_took() -> None:
    """Ten answers after the first, in five seconds, are two in a second; whoever let none wait takes more."""
    at = [100.0]
    paces = Paces(lambda: at[0])
    for number in range(11):
        at[0] = 100.0 + number / 2
        paces.answered("slow", 3.0 if number % 2 else 0.3)
        paces.answered("quick", 9.0 if number == 0 else 0.1)
    for _ in range(4):
        paces.answered("rare", 9.0)

    assert paces.measure() == {"slow": 2.0}
    assert paces.measure() == {}


def test_what_an_llm_takes_holds_where_nothing_stricter_is_declared() -> None:
    """Two lines in a second are 120 a minute; nine under way for nine seconds are one in a second less."""
    declared = {
        "strict": Limits(requests_per_minute=60.0, tokens_per_minute=5.0),
        "lax": Limits(requests_per_minute=600.0),
        "other": Limits(requests_per_minute=1.0),
    }

    slow = Slow({"strict": 2.0, "lax": 2.0, "new": 2.0}, {"new": 9, "other": 5})
    found = Capacities(limits=declared, seconds_left=9.0).slowed(slow)

    assert found.seconds_left == 9.0
    assert found.limits == declared | {
        "lax": Limits(requests_per_minute=pytest.approx(120.0)),
        "new": Limits(requests_per_minute=pytest.approx(60.0)),
    }
