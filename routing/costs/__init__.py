"""What a prompt is expected to cost with each LLM: prices, how long answers will be, and will take."""

from routing.costs.inputs import InputCounts, count_inputs, fit_input_ratios
from routing.costs.latencies import LatencyModel, Timings, fit_latencies, mixture_quantile, time_replies
from routing.costs.lengths import LengthModel, calibration, fit_lengths
from routing.costs.newcomers import admit_newcomers
from routing.costs.prices import call_cost, costs_at, expected_costs, price_table
from routing.costs.rating import RatedCall, rate_call, rerate_call
from routing.costs.usage import Usage, count_usage

__all__ = [
    "InputCounts",
    "LatencyModel",
    "LengthModel",
    "RatedCall",
    "Timings",
    "Usage",
    "admit_newcomers",
    "calibration",
    "call_cost",
    "costs_at",
    "count_inputs",
    "count_usage",
    "expected_costs",
    "fit_input_ratios",
    "fit_latencies",
    "fit_lengths",
    "mixture_quantile",
    "price_table",
    "rate_call",
    "rerate_call",
    "time_replies",
]
