"""An LLM without a price, or with an impossible field, does not come to be."""

import math

import pytest

from routing.errors import InvalidInputError, UnknownPriceError
from routing.llms import LLM, Price


@pytest.mark.parametrize("unknown", [None, math.nan])
@pytest.mark.parametrize("field", ["input_usd_per_mtok", "output_usd_per_mtok", "fixed_usd"])
def test_unknown_price_is_an_error(field: str, unknown: float | None) -> None:
    """A hole in the price list is never read as 0."""
    parts = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0, "fixed_usd": 0.0}

    with pytest.raises(UnknownPriceError) as caught:
        Price(**(parts | {field: unknown}))

    assert caught.value.field == field


@pytest.mark.parametrize("impossible", [-1e-9, math.inf])
def test_impossible_price_is_refused(impossible: float) -> None:
    """A price is finite and at least 0; 0 itself is a price."""
    assert Price(input_usd_per_mtok=0, output_usd_per_mtok=0).fixed_usd == 0
    with pytest.raises(InvalidInputError, match="input_usd_per_mtok"):
        Price(input_usd_per_mtok=impossible, output_usd_per_mtok=1)


def test_llm_without_price_is_an_error() -> None:
    """A registry that hands over no price at all is told whose."""
    with pytest.raises(UnknownPriceError, match="'small'"):
        LLM(name="small", price=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", " padded"),
        ("name", "two\nlines"),
        ("context_length", 0),
        ("expected_output_tokens", -1.0),
        ("expected_output_tokens", math.nan),
    ],
)
def test_impossible_fields_are_named(field: str, value: object) -> None:
    """Each refusal says which field it is about."""
    parts = {"name": "small", "price": Price(input_usd_per_mtok=1, output_usd_per_mtok=1)}

    with pytest.raises(InvalidInputError) as caught:
        LLM(**(parts | {field: value}))

    assert caught.value.field == field


def test_capabilities_are_a_set() -> None:
    """Whatever collection declares them, capabilities are frozen."""
    llm = LLM(
        name="small",
        price=Price(input_usd_per_mtok=1, output_usd_per_mtok=1),
        capabilities={"tools"},  # type: ignore[arg-type]
    )

    assert llm.capabilities == frozenset({"tools"})
    assert hash(llm)
