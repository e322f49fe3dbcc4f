"""What the last prompts would have cost at each lambda, kept at hand while more of them come."""

from collections import deque

import numpy as np

from routing.policies import Candidates, SpendingPlan, plan_spending

#: Prompts that are remembered: the mean of so many costs is right to a few per cent.
_MOST = 600
#: A plan is made anew once it lacks this part of the prompts that are remembered.
_STALE = 0.25


class RecentPrompts:
    """The candidates of the last prompts, with the plan that they make. For one thread."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._batches: deque[Candidates] = deque()
        self._count = 0
        self._plan: SpendingPlan | None = None
        #: Prompts that came since the plan was made.
        self._fresh = 0

    def __len__(self) -> int:
        return self._count

    def add(self, batch: Candidates) -> None:
        """Remember a batch; where other LLMs are registered than before, nothing else."""
        if self._batches and self._batches[-1].names != batch.names:
            self._batches.clear()
            self._count, self._plan = 0, None
        self._batches.append(batch)
        self._count += len(batch.costs)
        self._fresh += len(batch.costs)
        while self._count - len(self._batches[0].costs) >= self._most:
            self._count -= len(self._batches.popleft().costs)

    def plan(self) -> SpendingPlan:
        """Give what each lambda costs; at least one batch has been added."""
        if self._plan is None or self._fresh > _STALE * self._count:
            self._plan = plan_spending(
                Candidates(
                    errors=np.concatenate([one.errors for one in self._batches]),
                    costs=np.concatenate([one.costs for one in self._batches]),
                    allowed=np.concatenate([one.allowed for one in self._batches]),
                    names=self._batches[-1].names,
                )
            )
            self._fresh = 0
        return self._plan
