"""The learner: feedback and usage into Postgres, each once; new error rates and lengths out of both."""

from workers.learner.counting import DUPLICATES, Learner
from workers.learner.refitting import Refitter, prune_versions, refit, refit_lengths

__all__ = ["DUPLICATES", "Learner", "Refitter", "prune_versions", "refit", "refit_lengths"]
