"""From tokens to USD: what each LLM is expected to charge for each prompt."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError, UnknownPriceError
from routing.llms import LLM, Price, is_unknown

#: Prices are quoted per million tokens.
_PER_MILLION = 1e-6


def price_table(llms: Sequence[LLM]) -> NDArray[np.float64]:
    """Give the prices as rows input, output, fixed: shape (3, H), the first two in USD per token.

    Raises ``UnknownPriceError`` naming the first LLM without one.
    """
    for llm in llms:
        if not isinstance(llm.price, Price):
            raise UnknownPriceError(llm.name, "price")
        for field in ("input_usd_per_mtok", "output_usd_per_mtok", "fixed_usd"):
            if is_unknown(getattr(llm.price, field)):
                raise UnknownPriceError(llm.name, field)
    table = np.array(
        [
            [llm.price.input_usd_per_mtok * _PER_MILLION for llm in llms],
            [llm.price.output_usd_per_mtok * _PER_MILLION for llm in llms],
            [llm.price.fixed_usd for llm in llms],
        ],
        dtype=np.float64,
    )
    return table.reshape(3, len(llms))


def expected_costs(
    input_tokens: NDArray[np.float64], output_tokens: NDArray[np.float64], llms: Sequence[LLM]
) -> NDArray[np.float64]:
    """Give the USD of sending each prompt to each LLM, shape (n, H).

    ``input_tokens`` has shape (n,), the same with every LLM, or (n, H). ``output_tokens`` is what the answers
    are expected to have: (H,), the same for every prompt, or (n, H). Each element is
    ``in * p_in + out * p_out + fixed``, rounded after each operation, so that its bits depend on nothing but
    its own row and column.

    Raises ``UnknownPriceError`` for an LLM without a price (never read as 0) and ``InvalidInputError`` for
    counts that are negative, not finite or misshapen.
    """
    return costs_at(price_table(llms), input_tokens, output_tokens)


def costs_at(
    prices: NDArray[np.float64], input_tokens: NDArray[np.float64], output_tokens: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``expected_costs`` with the prices as ``price_table`` gives them."""
    n_prompts, n_llms = len(input_tokens), prices.shape[1]
    if input_tokens.shape not in {(n_prompts,), (n_prompts, n_llms)}:
        expected = f"({n_prompts},) or ({n_prompts}, {n_llms})"
        raise InvalidInputError("input_tokens", f"must have shape {expected}, not {input_tokens.shape}")
    if output_tokens.shape not in {(n_llms,), (n_prompts, n_llms)}:
        expected = f"({n_llms},) or ({n_prompts}, {n_llms})"
        raise InvalidInputError("output_tokens", f"must have shape {expected}, not {output_tokens.shape}")
    for name, tokens in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if not np.all(np.isfinite(tokens)) or np.any(tokens < 0):
            raise InvalidInputError(name, "must be finite and at least 0")
    per_input, per_output, fixed = prices
    inputs = np.asarray(input_tokens, dtype=np.float64)
    costs: NDArray[np.float64] = (inputs if inputs.ndim > 1 else inputs[:, None]) * per_input
    costs += output_tokens * per_output
    costs += fixed
    return costs


def call_cost(
    price: Price,
    *,
    input_tokens: float,
    output_tokens: float,
    cached_input_tokens: float = 0.0,
    calls: int = 1,
) -> float:
    """Give the USD of one call whose tokens are known, by the same formula as ``expected_costs``.

    Of several ``calls`` the tokens are the sums; their costs are linear in them.
    ``cached_input_tokens`` are those of ``input_tokens`` that the LLM found in its cache; without any the
    bits are those of ``expected_costs``. ``InvalidInputError`` when they are negative or more than the input.
    """
    if not 0 <= cached_input_tokens <= input_tokens:
        raise InvalidInputError(
            "cached_input_tokens",
            f"must be in 0..{input_tokens:g}, a part of the input, not {cached_input_tokens!r}",
        )
    usd = (input_tokens - cached_input_tokens) * (price.input_usd_per_mtok * _PER_MILLION)
    usd += output_tokens * (price.output_usd_per_mtok * _PER_MILLION)
    usd += cached_input_tokens * (price.cached_usd_per_mtok * _PER_MILLION)
    return usd + calls * price.fixed_usd
