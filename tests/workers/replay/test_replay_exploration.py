"""Exploring, and trying a canary, are bounded, logged with their odds, ended per tenant, and replayed."""

from collections import Counter

import numpy as np
import pytest
from logged_traffic import RATES, Office

from workers.replay import apply_policies, replay
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.llm_journal import Standing
from workers.storage.llms import LLMs
from workers.storage.tenants import Tenant, Tenants

pytestmark = pytest.mark.stack

#: At lambda 0 ``large`` wins wherever it errs less; in cells 0 and 1 ``small`` is within .1 of it.
EXPLORING = {"kind": "lagrangian", "error_per_usd": 0.0, "explore": {"share": 0.4, "band": 0.15}}


def know_deviations(office: Office, deviation: float) -> None:
    """Publish the error rates with standard deviations."""
    with transaction(office.engine) as session:
        version = ClusterMaps(session).active_version()
        assert version is not None
        ErrorRates(session).publish(
            version,
            ["large", "small"],
            RATES,
            reason="tests",
            deviations=np.full(RATES.shape, deviation),
        )


def test_exploration_is_bounded_logged_and_replayed(office: Office) -> None:
    """Only inside the band, at most the share, never at odds of 0; the log comes out the same bit for bit."""
    know_deviations(office, 0.05)
    apply_policies(office.engine, {"default": EXPLORING})

    records = office.traffic(50)

    looks = [record for record in records if record.cells[0] == 1 and record.llm == "small"]
    assert all(record.llm == "large" for record in records if record.cells[0] >= 2)
    assert 1 <= len(looks) <= 20
    assert all(0.04 <= record.propensity <= 0.4 for record in looks)
    assert min(record.propensity for record in records) > 0
    found = replay(office.engine, records)
    assert (found.decisions, found.identical) == (200, 200)


def test_a_tenant_ends_exploration_or_asks_for_it(office: Office) -> None:
    """With 0 nothing is drawn for its prompts; a floor of 1 explores all, also by a policy that does not."""
    know_deviations(office, 0.05)
    apply_policies(office.engine, {"default": EXPLORING})
    apply_policies(office.engine, {"plain": {"kind": "lagrangian", "error_per_usd": 0.0}})
    with transaction(office.engine) as session:
        Tenants(session).add(Tenant(name="careful", exploration_share=0.0))
        Tenants(session).add(Tenant(name="curious", exploration_share=1.0))

    careful = office.route(["1 a"] * 50, ("uniroute-tenant", b"careful"))
    curious = office.route(["0 a"] * 50, ("uniroute-tenant", b"curious"), model="auto/plain")

    assert {(record.llm, record.propensity, record.draw) for record in careful} == {("large", 1.0, None)}
    assert "explore" not in careful[0].policy_body
    assert curious[0].policy_body["explore"] == {"share": 1.0}
    # Equal errors: even odds, but for ties.
    assert 10 < Counter(record.llm for record in curious)["small"] < 40
    found = replay(office.engine, [*careful, *curious])
    assert (found.decisions, found.identical) == (100, 100)


def test_a_canary_gets_its_share_and_what_is_not_live_nothing(office: Office) -> None:
    """``large`` would win every prompt at lambda 0: a quarter as a canary, later none."""
    apply_policies(office.engine, {"default": {"kind": "lagrangian", "error_per_usd": 0.0}})
    with transaction(office.engine) as session:
        LLMs(session).set_state("large", "canary", standing=Standing(canary_share=0.25))

    records = office.route(["3 a"] * 200)

    went = Counter(record.llm for record in records)
    assert 30 <= went["large"] <= 70
    assert records[0].canaries == {"large": 0.25}
    assert {record.propensity for record in records} == {0.25, 0.75}
    found = replay(office.engine, records)
    assert (found.decisions, found.identical) == (200, 200)

    for state in ("shadow", "draining", "probe"):
        with transaction(office.engine) as session:
            LLMs(session).set_state("large", state)  # type: ignore[arg-type]
        assert {record.llm for record in office.route(["3 a"] * 20)} == {"small"}
    assert replay(office.engine, records).identical == 200
