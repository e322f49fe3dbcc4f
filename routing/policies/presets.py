"""Named trade-offs for callers who do not want to think in lambdas."""

import math
from typing import Literal

from routing.errors import InvalidInputError
from routing.policies.lagrangian import Lagrangian

Preset = Literal["performance-first", "balanced", "cost-first"]

#: Weights of performance and of cost. Source: GraphRouter (arXiv 2410.03834).
PRESET_WEIGHTS: dict[Preset, tuple[float, float]] = {
    "performance-first": (1.0, 0.0),
    "balanced": (0.5, 0.5),
    "cost-first": (0.2, 0.8),
}


def preset_policy(name: Preset, *, reference_cost_usd: float) -> Lagrangian:
    """Give the Lagrangian of a preset: lambda = (cost weight / performance weight) / reference cost.

    The reference is a FIXED cost per prompt, e.g. the dearest LLM's mean when the policy was written, on
    which costs are measured; were it the current pool's maximum, lambda would change its meaning with each
    new LLM. ``InvalidInputError`` for another name or a reference that is not above 0.
    """
    if name not in PRESET_WEIGHTS:
        raise InvalidInputError("preset", f"must be one of {', '.join(PRESET_WEIGHTS)}, not {name!r}")
    if not (math.isfinite(reference_cost_usd) and reference_cost_usd > 0):
        raise InvalidInputError("reference_cost_usd", f"must be above 0, not {reference_cost_usd!r}")
    performance, cost = PRESET_WEIGHTS[name]
    return Lagrangian(cost / performance / reference_cost_usd)
