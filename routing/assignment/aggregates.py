"""A million prompts as a few thousand groups: sums that add up block by block, and dealing the result out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.assignment.problem import Lines, Matrix
from routing.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Sums over the prompts of each group; add those of blocks to get those of the whole."""

    #: Shape (G,): prompts.
    counts: NDArray[np.int64]
    #: Shape (G, H): sums of predicted errors and of expected USD.
    errors: Matrix
    costs: Matrix

    @classmethod
    def of(cls, groups: NDArray[np.int64], errors: Matrix, costs: Matrix, *, n_groups: int) -> "Aggregates":
        """Sum up a block of prompts: ``groups`` (n,) below ``n_groups``, ``errors``, ``costs`` (n, H)."""
        if len(groups) and not (groups.min() >= 0 and groups.max() < n_groups):
            raise InvalidInputError("groups", f"must be in 0..{n_groups - 1}")
        columns = range(errors.shape[1])
        empty = np.empty((n_groups, 0))
        return cls(
            np.bincount(groups, minlength=n_groups).astype(np.int64),
            np.column_stack([empty, *(np.bincount(groups, errors[:, h], n_groups) for h in columns)]),
            np.column_stack([empty, *(np.bincount(groups, costs[:, h], n_groups) for h in columns)]),
        )

    def __add__(self, other: "Aggregates") -> "Aggregates":
        return Aggregates(self.counts + other.counts, self.errors + other.errors, self.costs + other.costs)

    def lines(self) -> Lines:
        """Give one line per group, each prompt at its group's mean; an empty group has count 0."""
        size = np.maximum(self.counts, 1)[:, None]
        return Lines(errors=self.errors / size, costs=self.costs / size, counts=self.counts)


def deal_choices(
    counts: NDArray[np.int64], groups: NDArray[np.int64], costs: Matrix | None = None
) -> NDArray[np.int64]:
    """Deal an assignment of groups, shape (G, H), to their prompts: the column of each, shape (n,), or -1.

    ``groups`` (n,) names each prompt's group. Prompts of a group are dealt in their order, or, given their
    own ``costs`` (n, H), those with the greatest saving first to the LLM that is cheapest for the group: that
    can only lower the sum paid. Prompts beyond the counts get -1.
    """
    chosen = np.full(len(groups), -1, dtype=np.int64)
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=len(counts)))
    for group, (begin, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
        members = order[begin:end]
        used = np.flatnonzero(counts[group])
        if costs is not None and len(used) > 1 and len(members):
            means = costs[members][:, used].mean(axis=0)
            used = used[np.argsort(means, kind="stable")]
            saving = costs[members, used[-1]] - costs[members, used[0]]
            members = members[np.argsort(-saving, kind="stable")]
        dealt = np.repeat(used, counts[group, used])[: len(members)]
        chosen[members[: len(dealt)]] = dealt
    return chosen
