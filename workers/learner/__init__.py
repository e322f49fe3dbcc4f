"""The learner: feedback and usage into Postgres, each once; new error rates and lengths out of both."""

from workers.learner.believing import Belief, weigh_evidence
from workers.learner.counting import CORRECTED, DUPLICATES, REFUSED, Learner
from workers.learner.excluding import Difference, LLMDifference, exclude_source, include_source
from workers.learner.mixing import MixWatch, watched_resolution
from workers.learner.refitting import Refitter, prune_versions, refit, refit_lengths, roll_back_rates
from workers.learner.watching import ALARMS

__all__ = [
    "ALARMS",
    "CORRECTED",
    "DUPLICATES",
    "REFUSED",
    "Belief",
    "Difference",
    "LLMDifference",
    "Learner",
    "MixWatch",
    "Refitter",
    "exclude_source",
    "include_source",
    "prune_versions",
    "refit",
    "refit_lengths",
    "roll_back_rates",
    "watched_resolution",
    "weigh_evidence",
]
