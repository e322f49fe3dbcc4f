"""What a call was charged, with the price version that says so, and what another version would charge."""

from dataclasses import dataclass

from routing.costs.prices import call_cost
from routing.llms import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedCall:
    """One call's usage and its USD under one version of its LLM's price; or the sums over several."""

    #: How many calls these are sums over.
    calls: int = 1
    input_tokens: float
    output_tokens: float
    #: The part of ``input_tokens`` that was found in the LLM's cache.
    cached_input_tokens: float = 0.0
    cost_usd: float
    price_version: str


def rate_call(
    price: Price,
    *,
    version: str,
    input_tokens: float,
    output_tokens: float,
    cached_input_tokens: float = 0.0,
    calls: int = 1,
) -> RatedCall:
    """Charge a call whose usage is known, or the sum of several; ``InvalidInputError`` as ``call_cost``."""
    return RatedCall(
        calls=calls,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached_input_tokens,
        cost_usd=call_cost(
            price,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached_input_tokens,
            calls=calls,
        ),
        price_version=version,
    )


def rerate_call(call: RatedCall, price: Price, *, version: str) -> RatedCall:
    """Charge the same usage under another version; under the version that rated it, the same bits."""
    return rate_call(
        price,
        version=version,
        input_tokens=call.input_tokens,
        output_tokens=call.output_tokens,
        cached_input_tokens=call.cached_input_tokens,
        calls=call.calls,
    )
