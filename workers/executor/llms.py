"""What an executor knows of an LLM."""

from dataclasses import dataclass, field

from routing.costs import call_cost
from routing.llms import DEFAULT_OUTPUT_TOKENS, Price
from workers.calls.endpoints import Endpoint
from workers.calls.gates import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableLLM:
    """Where an LLM answers, what its tokens cost, and what its provider allows."""

    endpoint: Endpoint
    price: Price
    #: The number under which the price was set.
    price_version: int = 0
    limits: Limits = field(default_factory=Limits)
    #: Mean length of an answer.
    output_tokens: float = DEFAULT_OUTPUT_TOKENS

    def estimate_usd(self, *, input_tokens: float, output_tokens: float) -> float:
        """Give what a call is expected to cost."""
        return call_cost(self.price, input_tokens=input_tokens, output_tokens=output_tokens)
