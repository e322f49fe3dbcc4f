"""Cached input, fixed fees and price versions, by hand."""

import math

import numpy as np
import pytest

from routing.costs import call_cost, expected_costs, rate_call, rerate_call
from routing.errors import InvalidInputError
from routing.llms import LLM, Price

CACHING = Price(
    input_usd_per_mtok=2.0, output_usd_per_mtok=8.0, fixed_usd=0.001, cached_input_usd_per_mtok=0.5
)
PLAIN = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0)


def test_cached_input_has_its_own_price() -> None:
    """400 fresh x 2e-6 + 600 cached x .5e-6 + 100 out x 8e-6 + .001 = .0008 + .0003 + .0008 + .001."""
    usd = call_cost(CACHING, input_tokens=1000, output_tokens=100, cached_input_tokens=600)

    assert usd == pytest.approx(0.0029)


def test_cached_input_without_a_price_costs_as_any_other() -> None:
    """1,000 x 2e-6 + 100 x 8e-6 = .0028, however many were cached."""
    for cached in (0, 250, 1000):
        usd = call_cost(PLAIN, input_tokens=1000, output_tokens=100, cached_input_tokens=cached)

        assert usd == pytest.approx(0.0028)


def test_cached_input_may_be_free() -> None:
    """0 is a price: 100 out x 8e-6 alone."""
    free = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0, cached_input_usd_per_mtok=0.0)

    assert call_cost(free, input_tokens=50, output_tokens=100, cached_input_tokens=50) == pytest.approx(
        0.0008
    )


@pytest.mark.parametrize("cached", [-1.0, 1000.5, math.nan])
def test_cached_input_is_a_part_of_the_input(cached: float) -> None:
    """More than there was, less than nothing and NaN have no cost."""
    with pytest.raises(InvalidInputError, match="cached_input_tokens"):
        call_cost(CACHING, input_tokens=1000, output_tokens=1, cached_input_tokens=cached)


@pytest.mark.parametrize("impossible", [-0.1, math.inf, math.nan])
def test_impossible_cached_price_is_refused(impossible: float) -> None:
    """It may be absent, but not negative, infinite or NaN."""
    with pytest.raises(InvalidInputError, match="cached_input_usd_per_mtok"):
        Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0, cached_input_usd_per_mtok=impossible)


def test_a_call_without_cached_input_costs_what_was_expected_to_the_bit() -> None:
    """Reserved and settled amounts agree exactly when the tokens do."""
    llm = LLM(name="a", price=CACHING)
    expected = expected_costs(np.array([777.0]), np.array([123.0]), [llm])[0, 0]

    assert call_cost(CACHING, input_tokens=777, output_tokens=123) == expected


def test_a_logged_call_is_charged_again_under_another_version() -> None:
    """400 x 4e-6 + 600 x 1e-6 + 100 x 16e-6 + .002 = .0058; its own version changes nothing."""
    doubled = Price(
        input_usd_per_mtok=4.0, output_usd_per_mtok=16.0, fixed_usd=0.002, cached_input_usd_per_mtok=1.0
    )
    logged = rate_call(CACHING, version="7", input_tokens=1000, output_tokens=100, cached_input_tokens=600)

    again = rerate_call(logged, doubled, version="8")

    assert again.cost_usd == pytest.approx(0.0058)
    assert (again.price_version, again.cached_input_tokens) == ("8", 600)
    assert rerate_call(again, CACHING, version="7") == logged
