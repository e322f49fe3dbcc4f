"""Runs declared policies over recorded traffic and tells what they cost, how well, and what they kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies import Candidates
from routing.snapshot import Snapshot
from workers.errors import UsageError
from workers.simulation.pacing import pace
from workers.simulation.promises import Evidence, Prepared, Spending, prepare
from workers.simulation.recorded import MOST_LABELS, Matrix, Recorded, Rows

#: A budget ends on its target if it ends within this share of it.
BUDGET_TOLERANCE = 0.01
#: Val prompts that are left untouched by teaching; with fewer, train prompts certify.
_FEWEST_UNTOUCHED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One LLM for all traffic."""

    llm: str
    cost_usd: float
    quality: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One policy over the traffic."""

    prepared: Prepared
    cost_usd: float
    #: Mean score; a prompt that no LLM was affordable for scores 0.
    quality: float
    #: What was promised: the least mean quality, or USD; ``None`` where nothing was.
    target: float | None
    #: Whether it came out; ``None`` where nothing was promised.
    target_met: bool | None
    #: Prompts by LLM.
    calls: Mapping[str, int]
    #: Whether nothing that was chosen broke a limit: an LLM's name, or a budget's ceiling.
    limits_kept: bool
    #: Prompts that got no LLM.
    unserved: int

    @property
    def kept(self) -> bool:
        """Whether all that was promised came out."""
        return self.limits_kept and self.target_met is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """All policies over the same traffic."""

    policies: Mapping[str, Outcome]
    best_single: Single
    cheapest: Single
    prompts: int
    labels: int


def simulate(
    recorded: Recorded,
    bodies: Mapping[str, Mapping[str, Any]],
    *,
    prompts: int | None = None,
    labels: int = MOST_LABELS,
    seed: int = 0,
    source: str = "the file",
) -> Simulation:
    """Teach every LLM by the same few val labels, calibrate each policy, and send it the test prompts.

    ``prompts`` of them in random order, every one if not given; beyond their number they come again.
    ``labels`` at most, and no more than leave 100 val prompts untouched, where val has as many. Whatever
    calibrates a policy is train and val prompts alone. ``UsageError`` naming ``source``, policy and key for a
    body that cannot be used.
    """
    rng = np.random.default_rng([seed, 5])
    shuffled = rng.permutation(recorded.val)
    taught = _count_labels(len(shuffled), labels)
    snapshot = recorded.teach(shuffled[:taught])
    evidence = _gather(recorded, snapshot, shuffled[taught:])
    traffic = draw_traffic(recorded.test, len(recorded.test) if prompts is None else prompts, rng)
    best_single, cheapest = _singles(recorded, traffic)
    sent = _Traffic(
        candidates=recorded.candidates(snapshot, traffic),
        paid=recorded.costs[traffic],
        scores=recorded.scores[traffic],
        best=best_single,
    )
    outcomes = {}
    for name, body in bodies.items():
        try:
            outcomes[name] = sent.run(prepare(name, body, evidence), rng)
        except InvalidInputError as error:
            raise UsageError(f"{source}: {error}") from error
    return Simulation(
        policies=outcomes,
        best_single=best_single,
        cheapest=cheapest,
        prompts=len(traffic),
        labels=taught,
    )


def draw_traffic(test: Rows, prompts: int, rng: np.random.Generator) -> Rows:
    """Give so many test prompts in random order: none twice before each came once."""
    if prompts < 1:
        raise UsageError("--prompts: must be at least 1")
    rounds = -(-prompts // len(test))
    return np.concatenate([rng.permutation(test) for _ in range(rounds)])[:prompts]


def _count_labels(n_val: int, labels: int) -> int:
    if n_val >= 2 * _FEWEST_UNTOUCHED:
        return min(labels, n_val - _FEWEST_UNTOUCHED)
    return min(labels, n_val)


def _gather(recorded: Recorded, snapshot: Snapshot, untouched: Rows) -> Evidence:
    rows = np.concatenate([recorded.train, untouched])
    certifying = np.arange(len(recorded.train), len(rows))
    return Evidence(
        known=recorded.candidates(snapshot, rows),
        wrong=recorded.wrong[rows],
        untouched=certifying if len(certifying) >= _FEWEST_UNTOUCHED else np.arange(len(rows)),
    )


def _singles(recorded: Recorded, traffic: Rows) -> tuple[Single, Single]:
    """Give the LLM with the best mean score on the traffic, of equals the cheaper, and the cheapest."""
    quality, cost = recorded.scores[traffic].mean(axis=0), recorded.costs[traffic].sum(axis=0)
    best, cheapest = int(np.lexsort((cost, -quality))[0]), int(np.lexsort((-quality, cost))[0])
    return (
        Single(llm=recorded.names[best], cost_usd=float(cost[best]), quality=float(quality[best])),
        Single(
            llm=recorded.names[cheapest], cost_usd=float(cost[cheapest]), quality=float(quality[cheapest])
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traffic:
    """n prompts as they come, with what truly came out of each LLM."""

    candidates: Candidates
    #: (n, H): USD that calls cost.
    paid: Matrix
    scores: Matrix
    best: Single

    def run(self, prepared: Prepared, rng: np.random.Generator) -> Outcome:
        """Send all prompts where the policy says."""
        if prepared.spending is not None:
            return self._spend(prepared, prepared.spending)
        llms = prepared.policy.choose(self.candidates, rng=rng).llms
        done = self._sum_up(prepared, llms)
        target = self._target_quality(prepared)
        return replace(
            done, target=target, target_met=None if target is None else done.quality >= target - 1e-12
        )

    def _spend(self, prepared: Prepared, spending: Spending) -> Outcome:
        budget = spending.usd
        if budget is None:
            budget = (spending.share_of_best or 0.0) * self.best.cost_usd
        if budget <= 0:
            raise InvalidInputError("share_of_best", "the best single LLM costs nothing here: give usd")
        paced = pace(self.candidates, self.paid, budget_usd=budget)
        done = self._sum_up(prepared, paced.llms)
        spent = paced.spent_usd
        on_target = abs(spent / budget - 1) <= BUDGET_TOLERANCE
        return replace(
            done,
            cost_usd=spent,
            target=budget,
            target_met=on_target or (spent <= budget and not paced.constrained),
            limits_kept=spent <= budget * (1 + 1e-9),
        )

    def _target_quality(self, prepared: Prepared) -> float | None:
        promise = prepared.promise
        if promise.kind != "quality":
            return None
        if promise.reference is None:
            return self.best.quality - promise.margin
        column = self.candidates.column(promise.reference)
        return float(self.scores[:, column].mean()) - promise.margin

    def _sum_up(self, prepared: Prepared, llms: NDArray[np.int64]) -> Outcome:
        rows = np.flatnonzero(llms >= 0)
        names = self.candidates.names
        counts = np.bincount(llms[rows], minlength=len(names))
        return Outcome(
            prepared=prepared,
            cost_usd=float(self.paid[rows, llms[rows]].sum()),
            quality=float(self.scores[rows, llms[rows]].sum()) / len(llms),
            target=None,
            target_met=None,
            limits_kept=True,
            unserved=len(llms) - len(rows),
            calls={name: int(count) for name, count in zip(names, counts, strict=True) if count},
        )
