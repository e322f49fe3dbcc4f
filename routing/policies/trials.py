"""LLMs on trial: each is offered to a small share of the prompts, whatever the policy thinks of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, Choices, Policy, UniformSource
from routing.policies.ceilings import Ceiling
from routing.policies.chances import draw_choices, normalise_rows, probabilities_of

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class OnTrial:
    """Follow ``policy`` among the LLMs that are not on trial; each that is joins them for its share.

    So an LLM on trial gets at most its share of the traffic, and less where the policy would not choose it.
    A prompt for which the limits leave nothing else may have it all the same: its caller asked for it, or
    would get no answer. LLMs that are no candidates are passed over. Raises ``InvalidInputError`` for shares
    outside 0..1 or above 1 together.
    """

    policy: Policy
    #: By name.
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", check_trials(self.shares))

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """Give the mean, weighted by the shares, of what the policy would do with each set of LLMs."""
        trials = {name: share for name, share in self.shares.items() if name in candidates.names}
        tried = np.array([name in trials for name in candidates.names], dtype=np.bool_)
        odds = max(0.0, 1.0 - sum(trials.values())) * self._odds(candidates, ~tried)
        for name, share in trials.items():
            joined = ~tried
            joined[candidates.column(name)] = True
            odds += share * self._odds(candidates, joined)
        return normalise_rows(odds)

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Draw the choices."""
        return draw_choices(self.probabilities(candidates), rng)

    def _odds(self, candidates: Candidates, offered: NDArray[np.bool_]) -> NDArray[np.float64]:
        return probabilities_of(self.policy, replace(candidates, allowed=candidates.allowed & offered))


@runtime_checkable
class Trying(Protocol):
    """A policy that can be asked only once, because it reserves what it chooses: it keeps trials itself."""

    def trying(self, shares: Mapping[str, float]) -> Policy:
        """Give the policy with these LLMs on trial."""
        ...


def keep_on_trial(policy: Policy, shares: Mapping[str, float]) -> Policy:
    """Give the policy with these LLMs on trial; a ceiling stays outermost, so that it sees what is chosen."""
    if not shares:
        return policy
    if isinstance(policy, Ceiling):
        return replace(policy, policy=keep_on_trial(policy.policy, shares))
    if isinstance(policy, Trying):
        return policy.trying(shares)
    return OnTrial(policy, shares)


def check_trials(shares: Mapping[str, float]) -> dict[str, float]:
    """Give the shares in the order of their names; ``InvalidInputError`` for what cannot be shares."""
    values = np.array(list(shares.values()), dtype=np.float64)
    if not np.all((values >= 0) & (values <= 1)) or values.sum() > 1 + _ROUNDING:
        raise InvalidInputError("canaries", "must have shares in 0..1, at most 1 together")
    return dict(sorted(shares.items()))
