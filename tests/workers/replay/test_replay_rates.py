"""Rolling error rates back makes decisions of that time again, bit for bit, from what is in force."""

import numpy as np
import pytest
from logged_traffic import RATES, Office

from workers.learner import refit, roll_back_rates
from workers.replay import replay
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates

pytestmark = pytest.mark.stack


def test_decisions_after_a_rollback_have_the_bits_of_then(office: Office) -> None:
    """Learning moved every decision; rolled back, logged ones replay and the same prompts score the same."""
    with transaction(office.engine) as session:
        version = ClusterMaps(session).active_version() or ""
        first = ErrorRates(session).current_version(version)
    assert first is not None
    then = office.traffic(2)
    with transaction(office.engine) as session:
        CellCounts(session).add(version, ["large"] * 4, range(4), [900.0] * 4, [1_000.0] * 4)
    refit(office.engine, reason="learned", wait=True)
    learned = office.traffic(2)
    made = roll_back_rates(office.engine, first)
    again = office.traffic(2)

    assert any(one.llm != other.llm for one, other in zip(then, learned, strict=True))
    for one, other in zip(then, again, strict=True):
        assert one.candidates == other.candidates
        assert (one.llm, one.propensity) == (other.llm, other.propensity)
    assert {one.versions.rates for one in again} == {str(made)}
    everything = replay(office.engine, [*then, *learned, *again])
    assert (everything.decisions, everything.identical) == (24, 24)
    assert refit(office.engine, reason="feedback") is None
    assert np.array_equal(current_rates(office), RATES)


def current_rates(office: Office) -> np.ndarray:
    """Give the rates in force."""
    with transaction(office.engine) as session:
        found = ErrorRates(session).current(ClusterMaps(session).active_version() or "")
    assert found is not None
    return found.rates
