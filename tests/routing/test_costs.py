"""From tokens to USD, by hand."""

import numpy as np
import pytest

from routing.costs import expected_costs
from routing.errors import InvalidInputError, UnknownPriceError
from routing.llms import LLM, Price

SMALL = LLM(name="small", price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0))
LARGE = LLM(name="large", price=Price(input_usd_per_mtok=5.0, output_usd_per_mtok=25.0, fixed_usd=0.001))


def test_costs_by_hand() -> None:
    """1,000 in and 500 out: 1,000 x 1e-6 + 500 x 2e-6 = .002; 1,000 x 5e-6 + 400 x 25e-6 + .001 = .016."""
    costs = expected_costs(np.array([1000.0, 0.0]), np.array([500.0, 400.0]), [SMALL, LARGE])

    assert costs == pytest.approx(np.array([[0.002, 0.016], [0.001, 0.011]]))


def test_each_prompt_may_expect_its_own_answer() -> None:
    """Output tokens of shape (n, H) equal the shared ones where they say the same, to the bit."""
    tokens, shared = np.array([10.0, 77.0, 901.0]), np.array([123.0, 456.0])

    one = expected_costs(tokens, shared, [SMALL, LARGE])
    each = expected_costs(tokens, np.tile(shared, (3, 1)), [SMALL, LARGE])

    assert one.tobytes() == each.tobytes()


def test_price_that_vanished_is_an_error() -> None:
    """A price that is lost after registration is an error at decision time too, never 0."""
    broken = LLM(name="broken", price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0))
    object.__setattr__(broken.price, "output_usd_per_mtok", None)

    with pytest.raises(UnknownPriceError, match="'broken' has no output_usd_per_mtok"):
        expected_costs(np.ones(1), np.ones(2), [SMALL, broken])


@pytest.mark.parametrize(
    "output_tokens", [np.ones(3), np.ones((1, 2)), np.array([1.0, -1.0]), np.full(2, np.nan)]
)
def test_impossible_output_tokens_are_refused(output_tokens: np.ndarray) -> None:
    """Another shape, a negative count and NaN have no cost."""
    with pytest.raises(InvalidInputError, match="output_tokens"):
        expected_costs(np.ones(2), output_tokens, [SMALL, LARGE])


def test_no_llms_no_costs() -> None:
    """An empty pool is a matrix without columns."""
    assert expected_costs(np.ones(2), np.empty(0), []).shape == (2, 0)
