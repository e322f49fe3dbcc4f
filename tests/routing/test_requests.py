"""What callers may ask, and what is refused before any prompt is looked at."""

import math

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.requests import Limits, Prompts

ROWS = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_cost_usd", -0.01),
        ("max_cost_usd", math.nan),
        ("max_cost_usd", math.inf),
        ("max_error", 1.01),
        ("max_error", -0.5),
        ("max_output_tokens", 0),
    ],
)
def test_impossible_limits_are_named(field: str, value: float) -> None:
    """Each refusal says which limit it is about."""
    with pytest.raises(InvalidInputError) as caught:
        Limits(**{field: value})

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("embeddings", {"embeddings": ROWS[0], "input_tokens": np.ones(3)}),
        ("input_tokens", {"embeddings": ROWS, "input_tokens": np.ones(2)}),
        ("input_tokens", {"embeddings": ROWS, "input_tokens": np.array([1, -1, 1.0])}),
        ("input_tokens", {"embeddings": ROWS, "input_tokens": np.array([1, np.nan, 1.0])}),
        ("limits", {"embeddings": ROWS, "input_tokens": np.ones(3), "limits": [Limits()]}),
    ],
)
def test_misshapen_batches_are_named(field: str, parts: dict[str, object]) -> None:
    """One token count and one set of limits per prompt, or a sentence about which is missing."""
    with pytest.raises(InvalidInputError) as caught:
        Prompts(**parts)

    assert caught.value.field == field
