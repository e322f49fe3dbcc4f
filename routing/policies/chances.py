"""Policies that draw: fixed shares, mixtures of two policies, exploration; each logs its odds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from routing.errors import InvalidInputError, UnknownLLMError
from routing.policies.candidates import Candidates, Choices, LoggedDraws, Policy, UniformSource

_Matrix = NDArray[np.float64]
#: Standard normal numbers that stand for all of them, each with the same weight: medians of 16 slices.
_NORMALS = ndtri((np.arange(16) + 0.5) / 16)
_LEAST_DEVIATION = 1e-9


@runtime_checkable
class Randomised(Protocol):
    """A policy that leaves something to chance."""

    def probabilities(self, candidates: Candidates) -> _Matrix:
        """Give the probability of each choice, shape (n, H); a row of zeros where nothing can be chosen."""
        ...


def probabilities_of(policy: Policy, candidates: Candidates) -> _Matrix:
    """Give the probability with which any policy makes each choice, shape (n, H)."""
    if isinstance(policy, Randomised):
        return policy.probabilities(candidates)
    llms = policy.choose(candidates, rng=LoggedDraws(np.full(len(candidates.errors), np.nan))).llms
    sure = np.zeros(candidates.errors.shape)
    rows = np.flatnonzero(llms >= 0)
    sure[rows, llms[rows]] = 1.0
    return sure


def draw_choices(probabilities: _Matrix, rng: UniformSource) -> Choices:
    """Draw a column per row of ``probabilities`` (n, H), which may sum to anything, with one number each."""
    draws = np.array(rng.random(len(probabilities)), dtype=np.float64)
    if probabilities.shape[1] == 0:
        return Choices(np.full(len(draws), -1), np.zeros(len(draws)), draws)
    mounting = np.cumsum(probabilities, axis=1)
    total = mounting[:, -1]
    # The first column whose cumulated share exceeds the draw; one of probability 0 never does so first.
    # A product that rounds up to the total itself is brought back below it.
    reached = np.minimum(draws * total, np.nextafter(total, 0))
    columns = (mounting > reached[:, None]).argmax(axis=1)
    llms = np.where(total > 0, columns, -1)
    odds = probabilities[np.arange(len(draws)), columns] / np.where(total > 0, total, 1.0)
    return Choices(llms.astype(np.int64), np.where(total > 0, odds, 0.0), draws)


@dataclass(frozen=True, slots=True)
class Weighted:
    """Choose by fixed shares, as a canary does, among what the limits leave; LLMs not named get nothing.

    Raises ``InvalidInputError`` for shares that are negative, not finite or all 0, and ``UnknownLLMError``
    when it chooses among candidates that do not include one of them.
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        values = np.array(list(self.shares.values()), dtype=np.float64)
        if not np.all(np.isfinite(values)) or np.any(values < 0) or not np.any(values > 0):
            raise InvalidInputError("shares", "must be finite, at least 0, and not all 0")
        object.__setattr__(self, "shares", dict(sorted(self.shares.items())))

    def probabilities(self, candidates: Candidates) -> _Matrix:
        """Give each LLM its share among the allowed ones."""
        if missing := sorted(set(self.shares) - set(candidates.names)):
            raise UnknownLLMError(missing[0], candidates.names)
        shares = np.array([self.shares.get(name, 0.0) for name in candidates.names])
        return normalise_rows(np.where(candidates.allowed, shares, 0.0))

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Draw the choices."""
        return draw_choices(self.probabilities(candidates), rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Follow ``first`` with probability ``share``, else ``second``.

    Mixing two operating points reaches every point of the line between them, and so the convex hull of a
    deferral curve, which no single lambda does. Raises ``InvalidInputError`` for a share outside 0..1.
    """

    first: Policy
    second: Policy
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidInputError("share", f"must be in 0..1, not {self.share!r}")

    def probabilities(self, candidates: Candidates) -> _Matrix:
        """Give the weighted mean of what the two would do."""
        first = probabilities_of(self.first, candidates)
        return self.share * first + (1 - self.share) * probabilities_of(self.second, candidates)

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Draw the choices."""
        return draw_choices(self.probabilities(candidates), rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """Follow ``policy``, but give ``share`` of the prompts to LLMs near the least error: Thompson sampling.

    An LLM of the band gets, of that share, the probability that it is the best of the band as far as is
    known, each error being normal about its prediction with its deviation; and ``even`` of it is dealt
    evenly, as all of it is where no deviations are known. So what is uncertain is looked at most, and every
    LLM of the band keeps a known, positive probability: feedback can say what another choice would have been
    worth (off-policy estimates), and rates that have gone stale are seen again. Limits hold: what is not
    allowed is never explored. ``max_exploration_usd`` caps what a look may cost. Where the band is empty the
    policy is followed alone, and where the policy chooses nothing, nothing is chosen: its share of a prompt
    would else go to exploration too, all of it.

    Raises ``InvalidInputError`` for a share or an even part outside 0..1, or a band or cap below 0. Source:
    Thompson 1933; Russo et al. 2018.
    """

    policy: Policy
    share: float
    #: Predicted error above the least allowed, at most.
    band: float = 0.1
    max_exploration_usd: float = np.inf
    even: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.even <= 1:
            raise InvalidInputError("share", f"and even must be in 0..1, not {self.share!r}, {self.even!r}")
        if not self.band >= 0 or not self.max_exploration_usd >= 0:
            raise InvalidInputError("band", "and max_exploration_usd must be at least 0")

    def probabilities(self, candidates: Candidates) -> _Matrix:
        """Give the policy's probabilities, mixed with the odds of exploring."""
        errors = np.where(candidates.allowed, candidates.errors, np.inf)
        floor = errors.min(axis=1, keepdims=True, initial=np.inf)
        inside = candidates.allowed & (errors <= floor + self.band)
        inside &= candidates.costs <= self.max_exploration_usd
        followed = probabilities_of(self.policy, candidates)
        explored = normalise_rows(inside.astype(np.float64))
        if candidates.deviations is not None:
            best = normalise_rows(odds_of_best(candidates.errors, candidates.deviations, inside))
            explored = self.even * explored + (1 - self.even) * best
        explores = inside.any(axis=1, keepdims=True) & followed.any(axis=1, keepdims=True)
        share = np.where(explores, self.share, 0.0)
        return (1 - share) * followed + share * explored

    def choose(self, candidates: Candidates, *, rng: UniformSource) -> Choices:
        """Draw the choices."""
        return draw_choices(self.probabilities(candidates), rng)


def odds_of_best(errors: _Matrix, deviations: _Matrix, inside: NDArray[np.bool_]) -> _Matrix:
    """Give the probability that each LLM ``inside`` (n, H) has the least error of these, in each row.

    Errors are independent and normal. Within some .01, by 16 points an LLM; rows sum to about 1. No row's
    bits depend on the other rows.
    """
    odds = inside.astype(np.float64)
    rows = np.flatnonzero(np.count_nonzero(inside, axis=1) > 1)
    if not rows.size:
        return odds
    near = inside[rows]
    # Those inside come first, in their order; what follows them in the longest row counts as a factor of 1.
    columns = np.argsort(~near, axis=1, kind="stable")[:, : np.count_nonzero(near, axis=1).max()]
    there = np.take_along_axis(near, columns, axis=1)
    means = np.take_along_axis(errors[rows], columns, axis=1)
    spreads = np.maximum(np.take_along_axis(deviations[rows], columns, axis=1), _LEAST_DEVIATION)
    drawn = means[:, :, None] + spreads[:, :, None] * _NORMALS
    least = np.ones_like(drawn)
    for rival in range(columns.shape[1]):
        above = ndtr((means[:, [rival], None] - drawn) / spreads[:, [rival], None])
        above[:, rival] = 1.0
        least *= np.where(there[:, [rival], None], above, 1.0)
    # One by one: a sum in pairs may depend on the shape.
    best = np.cumsum(least, axis=2)[:, :, -1] / len(_NORMALS)
    odds[rows[:, None], columns] = np.where(there, best, 0.0)
    return odds


def normalise_rows(rows: _Matrix) -> _Matrix:
    """Divide each row by its sum; rows of zeros stay."""
    if rows.shape[1] == 0:
        return rows
    total = np.cumsum(rows, axis=1)[:, -1:]
    return rows / np.where(total > 0, total, 1.0)
