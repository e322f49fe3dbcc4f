"""Decides logged traffic again, each prompt from the state of its time, and compares every bit."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Engine

from routing.decisions import Decisions
from routing.policies import Policy
from routing.snapshot import Snapshot
from workers.messages import DecisionRecord
from workers.policies import read_policy
from workers.replay.rebuilding import decide_logged, rebuild_snapshot, state_of
from workers.storage.engine import transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decision that came out otherwise."""

    prompt_id: str
    #: The LLM that was chosen, and the one that is now; ``None`` where the limits now leave none.
    before: str
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of deciding again."""

    decisions: int
    #: Decisions whose LLM, propensity, and every candidate's predicted error and cost have the same bits.
    identical: int
    #: Those that have not, LLM changed or not.
    changed: tuple[Change, ...]


def replay(engine: Engine, records: Iterable[DecisionRecord]) -> Replay:
    """Decide each record again from its logged weights, draw and limits, and the versions it names.

    Raises ``UsageError`` where a version is not kept in this database.
    """
    groups: dict[tuple[object, ...], list[DecisionRecord]] = {}
    for record in records:
        groups.setdefault(state_of(record), []).append(record)
    changed: list[Change] = []
    with transaction(engine) as session:
        for group in groups.values():
            snapshot = rebuild_snapshot(session, group[0])
            for part, decisions in decide_as_logged(group, snapshot):
                changed += [
                    Change(prompt_id=record.prompt_id, before=record.llm, after=decisions.llm(row))
                    for row, record in enumerate(part)
                    if not _is_identical(record, decisions, row)
                ]
    total = sum(map(len, groups.values()))
    return Replay(decisions=total, identical=total - len(changed), changed=tuple(changed))


def decide_as_logged(
    records: Sequence[DecisionRecord], snapshot: Snapshot
) -> Iterator[tuple[list[DecisionRecord], Decisions]]:
    """Decide each record again by the policy it was decided by, in as few batches as that allows.

    Where a policy spent a budget each prompt is a batch of its own: what was left for it is on its record.
    """
    groups: dict[tuple[object, ...], list[DecisionRecord]] = {}
    for record in records:
        alone = record.decision_id if record.pace is not None else None
        body = msgspec.json.encode(record.policy_body)  # one version may be in force in several forms
        groups.setdefault((record.policy, body, record.draw is None, alone), []).append(record)
    for group in groups.values():
        yield group, decide_logged(group, snapshot, policy_as_logged(group[0]))


def policy_as_logged(record: DecisionRecord) -> Policy:
    """Give the policy that decided; where it spent a budget, at the lambda and ceiling of the moment."""
    declared, pace = read_policy(record.policy, record.policy_body), record.pace
    if declared.budget is None or pace is None:
        return declared.policy
    return declared.budget.in_force(
        error_per_usd=pace.error_per_usd,
        remaining_usd=pace.remaining_usd,
        spent_usd=pace.spent_usd,
        by_ceiling=pace.by_ceiling,
        fallbacks=declared.fallbacks,
    )


def _is_identical(record: DecisionRecord, decisions: Decisions, row: int) -> bool:
    return (
        decisions.llm(row) == record.llm
        and float(decisions.propensities[row]) == record.propensity
        and decisions.errors[row].tolist() == [one.error for one in record.candidates]
        and decisions.costs[row].tolist() == [one.cost_usd for one in record.candidates]
    )
