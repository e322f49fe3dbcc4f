"""What calls cost is kept by price version, to be charged again; input as estimated and as billed."""

from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest
from sqlalchemy import Engine

from routing.costs import InputCounts, RatedCall, rate_call, rerate_call
from routing.llms import Price
from workers.storage.call_costs import BookedCall, CallBooks
from workers.storage.engine import transaction
from workers.storage.lengths import LengthCounts

pytestmark = pytest.mark.stack
FIRST = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0, cached_input_usd_per_mtok=1.0, fixed_usd=0.001)
SECOND = Price(input_usd_per_mtok=3.0, output_usd_per_mtok=4.0, fixed_usd=0.002)
NOON = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp())
DAY_S = 86_400


def booked(
    number: int,
    *,
    llm: str = "a",
    tenant: str = "acme",
    version: int = 1,
    days: int = 0,
    foretold: bool = True,
) -> BookedCall:
    """A call of ``number`` hundred tokens in, half of them cached, and ten out."""
    rated = rate_call(
        FIRST if version == 1 else SECOND,
        version=str(version),
        input_tokens=100 * number,
        cached_input_tokens=50 * number,
        output_tokens=10,
    )
    predicted = 0.5 * rated.cost_usd if foretold else None
    return BookedCall(
        tenant=tenant, decided_at=NOON + days * DAY_S, llm=llm, rated=rated, predicted_usd=predicted
    )


def test_calls_add_up_by_llm_and_price_version(engine: Engine) -> None:
    """Over tenants and days, in one batch or several, in order of LLM and version."""
    calls = [booked(1), booked(2, tenant="beta"), booked(3, version=2), booked(4, llm="b"), booked(5, days=1)]
    with transaction(engine) as session:
        CallBooks(session).add(calls[:3])
    with transaction(engine) as session:
        CallBooks(session).add(calls[3:])
        CallBooks(session).add([])
        found = CallBooks(session).sums()

    assert [(one.llm, one.rated.price_version) for one in found] == [("a", "1"), ("a", "2"), ("b", "1")]
    first = found[0]
    assert (first.rated.calls, first.rated.input_tokens) == (3, 800)
    assert (first.rated.cached_input_tokens, first.rated.output_tokens) == (400, 30)
    spent = [calls[row].rated.cost_usd for row in (0, 1, 4)]
    assert first.rated.cost_usd == pytest.approx(sum(spent))
    assert float(first.predicted_usd) == pytest.approx(sum(spent) / 2)
    assert float(first.predicted_cost_usd) == pytest.approx(sum(spent))


def test_what_nobody_predicted_is_not_compared(engine: Engine) -> None:
    """A fallback's call is paid for, and says nothing of predictions."""
    with transaction(engine) as session:
        CallBooks(session).add([booked(1, foretold=False)])
        [found] = CallBooks(session).sums()

    assert found.rated.calls == 1
    assert (found.predicted_usd, found.predicted_cost_usd) == (Decimal(0), Decimal(0))


def test_sums_are_charged_again_as_each_call_would_be(engine: Engine) -> None:
    """Costs are linear: a sum of calls costs at another price what its calls would, fees included."""
    calls = [booked(number) for number in range(1, 6)]
    with transaction(engine) as session:
        CallBooks(session).add(calls)
        [found] = CallBooks(session).sums()

    each = [rerate_call(call.rated, SECOND, version="2").cost_usd for call in calls]
    assert rerate_call(found.rated, SECOND, version="2").cost_usd == pytest.approx(sum(each))
    assert rerate_call(found.rated, FIRST, version="1").cost_usd == pytest.approx(found.rated.cost_usd)


def test_days_and_tenants_are_told_apart(engine: Engine) -> None:
    """``since`` is a UTC day of the decision and counts; a tenant's own calls alone."""
    with transaction(engine) as session:
        CallBooks(session).add([booked(1), booked(2, days=1), booked(4, days=2, tenant="beta")])
        since = CallBooks(session).sums(since=date(2027, 2, 1))
        own = CallBooks(session).sums(tenant="acme")

    assert [one.rated.input_tokens for one in since] == [600]
    assert [one.rated.input_tokens for one in own] == [300]


def test_billed_input_adds_up_and_is_forgotten_with_its_llm(stocked: Engine) -> None:
    """Sums by LLM; those of a retired LLM go when another model takes its name."""
    told = InputCounts(np.array([2.0, 0.0]), np.array([30.0, 0.0]), np.array([45.0, 0.0]))
    with transaction(stocked) as session:
        counts = LengthCounts(session)
        counts.add_inputs(["a", "b"], told)
        counts.add_inputs(["a", "b"], told)
        found = counts.read_inputs(["b", "a"])
        counts.forget("a")
        after = counts.read_inputs(["b", "a"])

    assert [found.replies.tolist(), found.estimated.tolist(), found.billed.tolist()] == [
        [0, 4],
        [0, 60],
        [0, 90],
    ]
    assert after.replies.tolist() == [0, 0]


def test_a_rated_sum_counts_its_calls() -> None:
    """Three calls at .001 USD a call: the fee is three times that."""
    rated = rate_call(FIRST, version="1", input_tokens=0, output_tokens=0, calls=3)

    assert rated == RatedCall(input_tokens=0, output_tokens=0, cost_usd=0.003, price_version="1", calls=3)
