"""Plans: what logged traffic would have become with other policies or prices, and by how much it moves."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from sqlalchemy import Engine

from routing.costs import mixture_quantile
from routing.decisions import Decisions
from routing.errors import UnknownLLMError
from routing.llms import Price
from routing.snapshot import CEILING_QUANTILE, Snapshot
from workers.errors import UsageError
from workers.messages import DecisionRecord
from workers.policies import check_llms
from workers.replay.again import Change, decide_as_logged
from workers.replay.rebuilding import decide_logged, rebuild_snapshot, state_of
from workers.router.banks import Books
from workers.router.deciding import decide_batch
from workers.router.pacing import Pacers
from workers.router.views import NamedPolicy
from workers.storage.engine import transaction
from workers.storage.llms import LLMs
from workers.storage.snapshots import load_state
from workers.storage.tenants import Tenant, Tenants, find_tenant

Bodies = Mapping[str, Mapping[str, Any]]
#: Decisions, and the row of one prompt among them.
Place = tuple[Decisions, int]
#: Prompts in a batch between two moves of lambda.
_PACED = 16
#: Of a policy that is not stored yet.
_NO_VERSION = 0


@dataclass(slots=True)
class Side:
    """Sums over decisions, before or after."""

    decisions: int = 0
    usd: float = 0.0
    #: Sum of 1 - predicted error.
    quality: float = 0.0
    #: Decisions that chose an LLM.
    calls: int = 0
    #: Of the calls whose latency is known: seconds that each hardly exceeds, and its logarithm's deviation.
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    spreads: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, decisions: Decisions, row: int) -> None:
        """Count one decision; one that left no LLM costs, gives and takes nothing."""
        self.decisions += 1
        column = int(decisions.llms[row])
        if column < 0:
            return
        self.calls += 1
        self.usd += float(decisions.costs[row, column])
        self.quality += 1.0 - float(decisions.errors[row, column])
        if decisions.seconds is not None and decisions.second_spreads is not None:
            self.seconds.append(float(decisions.seconds[row, column]))
            self.spreads.append(float(decisions.second_spreads[column]))

    @property
    def p95_seconds(self) -> float | None:
        """What one call in twenty is expected to exceed, of all whose latency is known; ``None``: of none."""
        if not self.seconds:
            return None
        return mixture_quantile(np.array(self.seconds), np.array(self.spreads), quantile=CEILING_QUANTILE)

    @property
    def unknown_share(self) -> float:
        """The share of the calls whose latency was not known when they were decided."""
        return 1.0 - len(self.seconds) / self.calls if self.calls else 0.0


@dataclass(slots=True)
class Move:
    """One LLM, tenant or cluster: what it had, what it would have."""

    before: Side = field(default_factory=Side)
    after: Side = field(default_factory=Side)
    #: Decisions that would go to another LLM.
    moved: int = 0


@dataclass(slots=True)
class Plan:
    """What would change. Figures are predictions; a decision that leaves no LLM stands under ``none``."""

    decisions: int = 0
    #: Logged decisions that cannot be decided again here: they were made on another cluster map.
    left_out: int = 0
    total: Move = field(default_factory=Move)
    llms: dict[str, Move] = field(default_factory=dict)
    tenants: dict[str, Move] = field(default_factory=dict)
    #: By the hard cell in the map's first resolution.
    clusters: dict[str, Move] = field(default_factory=dict)
    changed: list[Change] = field(default_factory=list)

    def count(self, record: DecisionRecord, before: Place, after: Place) -> None:
        """Count one prompt, decided both ways."""
        was, now = (place[0].llm(place[1]) or "none" for place in (before, after))
        self.decisions += 1
        for move in (
            self.total,
            self.tenants.setdefault(record.tenant or "none", Move()),
            self.clusters.setdefault(str(record.cells[0]), Move()),
        ):
            move.before.add(*before)
            move.after.add(*after)
            move.moved += was != now
        self.llms.setdefault(was, Move()).before.add(*before)
        self.llms.setdefault(now, Move()).after.add(*after)
        if was != now:
            self.llms[was].moved += 1
            self.llms[now].moved += 1
            self.changed.append(
                Change(prompt_id=record.prompt_id, before=was, after=None if now == "none" else now)
            )

    def as_json(self) -> dict[str, Any]:
        """Give the plan as JSON has it, names in order."""
        return {
            "decisions": self.decisions,
            "left_out": self.left_out,
            "moved": self.total.moved,
            "total": _plain(self.total, self.decisions),
            **{
                kind: {name: _plain(move, self.decisions) for name, move in sorted(moves.items())}
                for kind, moves in (
                    ("llms", self.llms),
                    ("tenants", self.tenants),
                    ("clusters", self.clusters),
                )
            },
        }


def plan_from_log(
    engine: Engine,
    records: Sequence[DecisionRecord],
    *,
    bodies: Bodies | None = None,
    prices: Mapping[str, Price] | None = None,
) -> Plan:
    """Decide logged traffic again, each prompt from the state it was decided from, with changes.

    ``bodies`` stand in for the policies of their names, ``prices`` for those of their LLMs; a budget that
    stays has the lambda it had. Raises
    ``UsageError`` where a version is not kept, and ``UnknownLLMError`` for a price of an LLM that was never
    registered, or a policy that names one which was not there yet.
    """
    changed = {name: NamedPolicy.build(name, _NO_VERSION, body) for name, body in (bodies or {}).items()}
    plan = Plan()
    groups: dict[tuple[object, ...], list[DecisionRecord]] = {}
    for record in records:
        groups.setdefault(state_of(record), []).append(record)
    with transaction(engine) as session:
        clock = _LogClock(Tenants(session).list())
        known = LLMs(session).names()
        if strange := sorted(set(prices or ()) - set(known)):
            raise UnknownLLMError(strange[0], known)
        for group in groups.values():
            snapshot = rebuild_snapshot(session, group[0])
            other = rebuild_snapshot(session, group[0], prices=prices) if prices else snapshot
            for part, before in decide_as_logged(group, snapshot):
                name = name_of(part[0].policy)
                if name in changed:
                    places = clock.decide(part, other, changed[name])
                else:
                    [(_, after)] = decide_as_logged(part, other)
                    places = [(after, row) for row in range(len(part))]
                for row, record in enumerate(part):
                    plan.count(record, (before, row), places[row])
    return plan


def plan_from_now(engine: Engine, records: Sequence[DecisionRecord], *, bodies: Bodies) -> tuple[Plan, int]:
    """Decide logged traffic by the policies in force and again by ``bodies``, both from the state of now.

    Gives the plan and the version of the state. Raises ``UsageError`` while no map is in force, and
    ``InvalidInputError`` for a policy that names an LLM which is not registered.
    """
    with transaction(engine) as session:
        state = load_state(session)
    changed = {name: NamedPolicy.build(name, _NO_VERSION, body) for name, body in bodies.items()}
    for name, named in changed.items():
        check_llms(
            name,
            named.declaration,
            [one for one, found in state.registered.items() if found.state != "retired"],
        )
    if state.snapshot is None:
        raise UsageError("no cluster map with error rates is in force: run `uniroute map fit` first")
    current = {
        name: NamedPolicy.build(name, version, body) for name, (version, body) in state.policies.items()
    }
    plan = Plan()
    known = [record for record in records if record.versions.map == state.snapshot.cluster_map.version]
    plan.left_out = len(records) - len(known)
    for name, group in _by_policy(known):
        if name not in current and name not in changed:
            plan.left_out += len(group)
            continue
        before = current.get(name) or changed[name]
        first = after = _LogClock(state.tenants).decide(group, state.snapshot, before)
        if name in changed:
            after = _LogClock(state.tenants).decide(group, state.snapshot, changed[name])
        for row, record in enumerate(group):
            plan.count(record, first[row], after[row])
    return plan, state.version


class _LogClock:
    """Decides logged prompts by policies at the times at which they came, and keeps budgets by that clock.

    So the same log gives the same plan, however fast it is read.
    """

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self._tenants = tenants
        self._seconds = 0.0
        self._books = Books(clock=lambda: self._seconds)
        self._pacers = Pacers(self._books, clock=lambda: self._seconds)

    def decide(
        self, records: Sequence[DecisionRecord], snapshot: Snapshot, named: NamedPolicy
    ) -> list[Place]:
        """Decide prompts by a policy as each one's tenant has it, in their order.

        A budget is paced as if each call cost what it was expected to, and had ended with its batch.
        """
        places: dict[int, Place] = {}
        size = len(records) if named.declaration.budget is None else _PACED
        for start in range(0, len(records), size):
            shares: dict[float | None, list[int]] = {}
            for row in range(start, min(start + size, len(records))):
                tenant = find_tenant(records[row].tenant, self._tenants)
                share = None if tenant is None else tenant.exploration_share
                shares.setdefault(share, []).append(row)
            for explored, rows in shares.items():
                places |= self._decide_part(records, rows, snapshot, named.exploring(explored))
        return [places[row] for row in range(len(records))]

    def _decide_part(
        self, records: Sequence[DecisionRecord], rows: list[int], snapshot: Snapshot, named: NamedPolicy
    ) -> dict[int, Place]:
        part = [records[row] for row in rows]
        self._seconds = max(self._seconds, part[0].decided_at.timestamp())
        batch = decide_batch(
            named.name,
            named.declaration,
            partial(decide_logged, part, snapshot, fill_draws=True),
            pacers=self._pacers,
            now=part[0].decided_at,
        )
        for index in range(len(part)):
            if (reserved := batch.reserved(index)) is not None:
                self._books.reserve(reserved)
                self._books.settle(reserved, reserved.expected_usd)
        return {row: (batch.decisions, index) for index, row in enumerate(rows)}


def name_of(policy: str) -> str:
    """Give the name in ``NAME@VERSION``."""
    return policy.rpartition("@")[0] or policy


def _by_policy(records: Sequence[DecisionRecord]) -> Iterator[tuple[str, list[DecisionRecord]]]:
    groups: dict[str, list[DecisionRecord]] = {}
    for record in records:
        groups.setdefault(name_of(record.policy), []).append(record)
    yield from groups.items()


def _plain(move: Move, decisions: int) -> dict[str, Any]:
    return {
        "moved": move.moved,
        "before": _plain_side(move.before, decisions),
        "after": _plain_side(move.after, decisions),
    }


def _plain_side(side: Side, decisions: int) -> dict[str, Any]:
    return {
        "decisions": side.decisions,
        "share": side.decisions / decisions if decisions else 0.0,
        "usd": side.usd,
        "quality": side.quality / side.decisions if side.decisions else None,
        "p95_seconds": side.p95_seconds,
        "p95_unknown_share": side.unknown_share,
    }
