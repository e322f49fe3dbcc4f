"""Values policies on logged decisions whose feedback is known, or says which decisions cannot tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.decisions import Decisions
from routing.errors import MissingSupportError, UnknownLLMError
from routing.evaluation.off_policy import Estimate, LoggedDecisions, OffPolicyValue, estimate_value
from routing.policies import Candidates, Ceiling, Policy, keep_on_trial, probabilities_of, reservable
from workers.errors import UsageError
from workers.messages import DecisionRecord
from workers.policies import Declaration, read_policy
from workers.replay.again import decide_as_logged, policy_as_logged
from workers.replay.plans import Bodies
from workers.replay.rebuilding import rebuild_snapshot, state_of
from workers.storage.engine import transaction
from workers.storage.feedback import Feedback
from workers.storage.sources import Sources

_Matrix = NDArray[np.float64]
#: A decision made again has the probability that was logged within this, or is left out.
_ROUNDING = 1e-9
#: Stands for no LLM at all, which no logged decision with feedback can have chosen.
_NOBODY = ""
#: Two make a mean with an interval.
_FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """What one policy would have been worth on the logged prompts, or why that cannot be said."""

    #: Expected USD of a prompt.
    usd: float
    #: ``None`` where it cannot be said.
    value: OffPolicyValue | None
    #: Why not, and the prompts whose decisions could never have been what the policy would choose.
    refusal: str = ""
    lacking: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON has it; an unbounded end of an interval is null."""
        if self.value is None:
            return {"refused": self.refusal, "lacking": list(self.lacking), "usd_per_prompt": self.usd}
        return {
            **{name: _plain(getattr(self.value, name)) for name in ("ips", "snips", "dr")},
            "effective_size": self.value.effective_size,
            "usd_per_prompt": self.usd,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Valuation:
    """Policies valued on the same logged decisions."""

    #: Decisions looked at, those used, and why the others were not.
    decisions: int
    used: int
    without_feedback: int
    not_repeatable: int
    #: Mean score and expected USD of what was chosen.
    logged: Estimate
    logged_usd: float
    policies: dict[str, PolicyValue]

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "decisions": self.decisions,
            "used": self.used,
            "without_feedback": self.without_feedback,
            "not_repeatable": self.not_repeatable,
            "logged": {**_plain(self.logged), "usd_per_prompt": self.logged_usd},
            "policies": {name: found.as_json() for name, found in self.policies.items()},
        }


@dataclass(slots=True)
class _Log:
    """Decisions of all states side by side; an LLM that a state did not have is a column of zeros."""

    columns: dict[str, int]
    ids: list[str]
    chosen: list[int]
    rewards: list[float]
    odds: list[_Matrix]
    predicted: list[_Matrix]
    costs: list[_Matrix]
    targets: dict[str, list[_Matrix]]

    def widen(self, rows: _Matrix, names: Sequence[str]) -> _Matrix:
        """Give rows (n, H) over ``names`` as rows over every column."""
        wide = np.zeros((len(rows), len(self.columns)))
        wide[:, [self.columns[name] for name in names]] = rows
        return wide


def value_policies(
    engine: Engine, records: Sequence[DecisionRecord], *, bodies: Bodies, clip: float = np.inf
) -> Valuation:
    """Value the policies that ``bodies`` declare on logged decisions that feedback was given on.

    What each could choose is what was allowed then, at the errors and costs predicted then, before the
    feedback; a decision's score is the mean over its sources, each weighing as much as it does in learning.
    Left out are decisions without feedback, or with that of sources alone which weigh nothing, and those
    whose logged probability does not come out again: squeezed by a budget, say. A policy that may choose what
    a decision never could gets no number but the names of these decisions. Raises ``UsageError`` for a budget
    policy, whose choices depend on each other, and for fewer than two decisions.
    """
    targets = {name: _read_target(name, body) for name, body in bodies.items()}
    with transaction(engine) as session:
        scores = _read_scores(session, [record.decision_id for record in records])
    graded = [record for record in records if record.decision_id in scores]
    log = _collect(engine, graded, scores, targets)
    if len(log.ids) < _FEWEST:
        raise UsageError(
            f"of {len(records)} decisions, {len(graded)} have feedback and {len(log.ids)} of these can be "
            "made again: at least two are needed"
        )
    odds, costs = np.concatenate(log.odds), np.concatenate(log.costs)
    logged = LoggedDecisions(
        ids=log.ids, chosen=np.array(log.chosen), probabilities=odds, rewards=np.array(log.rewards)
    )
    predicted = np.concatenate(log.predicted)
    rows = np.arange(len(log.ids))
    own = estimate_value(logged, odds, predicted)
    return Valuation(
        decisions=len(records),
        used=len(log.ids),
        without_feedback=len(records) - len(graded),
        not_repeatable=len(graded) - len(log.ids),
        logged=own.ips,
        logged_usd=float(costs[rows, logged.chosen].mean()),
        policies={
            name: _value(logged, np.concatenate(parts), predicted, costs, clip=clip)
            for name, parts in log.targets.items()
        },
    )


def _read_scores(session: Session, decision_ids: Sequence[str]) -> dict[str, float]:
    """Give the mean score of each decision over its sources, by what a label of each weighs."""
    given = Feedback(session).scores(decision_ids)
    weights = Sources(session).weights({source for one in given.values() for source in one})
    found = {}
    for decision_id, one in sorted(given.items()):
        mass = sum(weights[source] for source in sorted(one))
        if mass > 0:
            found[decision_id] = sum(weights[source] * one[source] for source in sorted(one)) / mass
    return {decision_id: min(max(score, 0.0), 1.0) for decision_id, score in found.items()}


def _read_target(name: str, body: Any) -> Declaration:  # noqa: ANN401  # whatever was declared
    declared = read_policy(name, body)
    if declared.budget is not None:
        raise UsageError(
            f"policy {name} spends a budget, so each of its choices depends on those before: value the "
            "lagrangian of the lambda that it would have"
        )
    return declared


def _value(
    logged: LoggedDecisions, policy: _Matrix, predicted: _Matrix, costs: _Matrix, *, clip: float
) -> PolicyValue:
    usd = float((policy * costs).sum(axis=1).mean())
    try:
        return PolicyValue(usd=usd, value=estimate_value(logged, policy, predicted, clip=clip))
    except MissingSupportError as error:
        return PolicyValue(usd=usd, value=None, refusal=str(error), lacking=error.decisions)


def _collect(
    engine: Engine,
    graded: Sequence[DecisionRecord],
    scores: dict[str, float],
    targets: dict[str, Declaration],
) -> _Log:
    names = sorted({one.llm for record in graded for one in record.candidates})
    log = _Log(
        columns={name: column for column, name in enumerate([*names, _NOBODY])},
        ids=[],
        chosen=[],
        rewards=[],
        odds=[],
        predicted=[],
        costs=[],
        targets={name: [] for name in targets},
    )
    groups: dict[tuple[object, ...], list[DecisionRecord]] = {}
    for record in graded:
        groups.setdefault(state_of(record), []).append(record)
    with transaction(engine) as session:
        for group in groups.values():
            for part, decisions in decide_as_logged(group, rebuild_snapshot(session, group[0])):
                _add(log, part, decisions, scores, targets)
    return log


def _add(
    log: _Log,
    part: Sequence[DecisionRecord],
    decisions: Decisions,
    scores: dict[str, float],
    targets: dict[str, Declaration],
) -> None:
    """Add the decisions of one policy and state that come out again as they were logged."""
    candidates = decisions.all_candidates()
    trials = part[0].canaries
    odds = _odds(keep_on_trial(policy_as_logged(part[0]), trials), candidates)
    chosen = np.array([decisions.names.index(record.llm) for record in part])
    known = odds[np.arange(len(part)), chosen]
    kept = np.flatnonzero(np.abs(known - [record.propensity for record in part]) <= _ROUNDING * known)
    if not kept.size:
        return
    candidates = candidates.rows(kept)
    for record in (part[int(row)] for row in kept):
        log.ids.append(record.prompt_id)
        log.chosen.append(log.columns[record.llm])
        log.rewards.append(scores[record.decision_id])
    log.odds.append(log.widen(odds[kept], decisions.names))
    log.predicted.append(log.widen(1.0 - candidates.errors, decisions.names))
    log.costs.append(log.widen(candidates.costs, decisions.names))
    for name, declared in targets.items():
        wanted = _odds(keep_on_trial(declared.policy, trials), candidates)
        log.targets[name].append(_fill(log.widen(wanted, decisions.names)))


def _odds(policy: Policy, candidates: Candidates) -> _Matrix:
    """Give the probability of each choice; zeros where the policy makes none, or a budget may bind."""
    binds = np.zeros(len(candidates.errors), dtype=np.bool_)
    if isinstance(policy, Ceiling):
        amounts = reservable(candidates, policy.fallbacks) if policy.by_ceiling else candidates.costs
        after = policy.spent_usd + amounts
        binds = np.any(candidates.allowed & (after > policy.remaining_usd), axis=1)
        policy = policy.policy
    try:
        odds = probabilities_of(policy, candidates)
    except UnknownLLMError:  # it names one that was not there yet
        return np.zeros(candidates.errors.shape)
    odds[binds] = 0.0
    total = odds.sum(axis=1, keepdims=True)
    normal: _Matrix = odds / np.where(total > 0, total, 1.0)
    return normal


def _fill(wide: _Matrix) -> _Matrix:
    """Let nobody be chosen where no LLM is: the last column."""
    wide[:, -1] = np.where(wide.sum(axis=1) > 0, 0.0, 1.0)
    return wide


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "interval": [end if np.isfinite(end) else None for end in estimate.interval],
    }
