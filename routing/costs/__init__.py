"""What a prompt is expected to cost with each LLM: prices, and how long the answers will be."""

from routing.costs.lengths import LengthModel, fit_lengths
from routing.costs.prices import call_cost, costs_at, expected_costs, price_table
from routing.costs.rating import RatedCall, rate_call, rerate_call
from routing.costs.usage import Usage, count_usage

__all__ = [
    "LengthModel",
    "RatedCall",
    "Usage",
    "call_cost",
    "costs_at",
    "count_usage",
    "expected_costs",
    "fit_lengths",
    "price_table",
    "rate_call",
    "rerate_call",
]
