"""What an executor knows of an LLM."""

from dataclasses import dataclass, field

from routing.costs import call_cost
from routing.llms import DEFAULT_OUTPUT_TOKENS, Price
from workers.calls.endpoints import Endpoint
from workers.calls.gates import Limits
from workers.executor.dispatches import Dispatch


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

    def estimate_for(self, dispatch: Dispatch) -> float:
        """Give the USD that a call for a dispatch is expected to cost.

        That is what its decision expected of the LLM, which knows the prompt; of another, what a mean answer
        costs.
        """
        decided = dispatch.llm == self.endpoint.llm and not dispatch.fallback_from
        if decided and dispatch.cascade is None and dispatch.expected_usd:
            return dispatch.expected_usd
        output_tokens = dispatch.output_tokens(self.output_tokens)
        return call_cost(self.price, input_tokens=dispatch.input_tokens, output_tokens=output_tokens)
