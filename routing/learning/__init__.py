"""Learning that can be trusted: whom to believe, when labels suffice, and when what was learned is stale.

::

    trust        sources held against each other; weights, caps, flags
    onboarding   which prompts to label for a new LLM, and when to stop
    drift        an LLM that got worse or better
    mixes        prompts that are no longer the map's

Counts, estimates and forgetting are in ``routing.quality``; exploration is a policy; what a logged decision
says of another policy is in ``routing.evaluation.off_policy``.
"""

from routing.learning.drift import (
    KEEP_AFTER_CHANGE,
    Alarm,
    DriftRule,
    DriftState,
    Seen,
    Watch,
    follow_llm,
    watch_errors,
)
from routing.learning.mixes import MixReport, MixRule, PromptMix, compare_mix
from routing.learning.onboarding import (
    StoppingRule,
    cautious_rates,
    deal_probes,
    expected_losses,
    label_until_settled,
    spread_lambdas,
)
from routing.learning.trust import (
    KIND_CAPS,
    KIND_WEIGHTS,
    SourceTrust,
    TrustRule,
    cap_masses,
    combine_counts,
    estimate_trust,
)

__all__ = [
    "KEEP_AFTER_CHANGE",
    "KIND_CAPS",
    "KIND_WEIGHTS",
    "Alarm",
    "DriftRule",
    "DriftState",
    "MixReport",
    "MixRule",
    "PromptMix",
    "Seen",
    "SourceTrust",
    "StoppingRule",
    "TrustRule",
    "Watch",
    "cap_masses",
    "cautious_rates",
    "combine_counts",
    "compare_mix",
    "deal_probes",
    "estimate_trust",
    "expected_losses",
    "follow_llm",
    "label_until_settled",
    "spread_lambdas",
    "watch_errors",
]
