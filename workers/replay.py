"""Decides logged traffic again, from the state it was decided from, and holds the two against each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.clusters import Placement
from routing.decisions import Decisions, decide_placed
from routing.llms import LLM
from routing.policies import LoggedDraws
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions
from workers.errors import UsageError
from workers.messages import DecisionRecord
from workers.policies import build_policy
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.llms import LLMs
from workers.storage.prices import Prices


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
        groups.setdefault(_state_of(record), []).append(record)
    changed: list[Change] = []
    with transaction(engine) as session:
        for group in groups.values():
            decisions = _decide_again(session, group)
            changed += [
                Change(prompt_id=record.prompt_id, before=record.llm, after=decisions.llm(row))
                for row, record in enumerate(group)
                if not _is_identical(record, decisions, row)
            ]
    total = sum(map(len, groups.values()))
    return Replay(decisions=total, identical=total - len(changed), changed=tuple(changed))


def _state_of(record: DecisionRecord) -> tuple[object, ...]:
    """Name what a decision was made from: records that agree in it are decided in one batch."""
    versions = record.versions
    candidates = tuple((one.llm, one.output_tokens) for one in record.candidates)
    drawn = record.draw is not None
    return versions.map, versions.rates, versions.prices, versions.policy, candidates, drawn


def _decide_again(session: Session, group: Sequence[DecisionRecord]) -> Decisions:
    first = group[0]
    snapshot = _rebuild(session, first)
    placement = Placement(
        weights=np.stack([np.frombuffer(record.weights, dtype="<f4") for record in group]),
        cells=np.array([record.cells for record in group], dtype=np.int32),
    )
    draws = np.array([np.nan if record.draw is None else record.draw for record in group])
    return decide_placed(
        placement,
        np.array([record.input_tokens for record in group]),
        [msgspec.convert(record.limits, Limits) for record in group],
        snapshot,
        build_policy(first.policy, first.policy_body),
        rng=LoggedDraws(draws),
    )


def _rebuild(session: Session, record: DecisionRecord) -> Snapshot:
    """Put together the snapshot that a decision was made from."""
    fitted = ClusterMaps(session).get(record.versions.map)
    rates = ErrorRates(session).get(int(record.versions.rates))
    if fitted is None or rates is None:
        raise UsageError(
            f"cluster map {record.versions.map} or error rates {record.versions.rates} are not kept in this "
            "database, so the decisions made from them cannot be made again"
        )
    registered = {one.llm.name: one.llm for one in LLMs(session).list()}
    prices = Prices(session).current(at_version=int(record.versions.prices))
    llms = tuple(_as_priced(registered[one.llm], prices) for one in record.candidates)
    columns = [rates.llms.index(llm.name) for llm in llms]
    return Snapshot(
        cluster_map=fitted.cluster_map,
        llms=llms,
        error_rates=rates.rates[:, columns],
        output_tokens=np.array([one.output_tokens for one in record.candidates]),
        versions=Versions(error_rates=record.versions.rates, prices=record.versions.prices),
    )


def _as_priced(llm: LLM, prices: Mapping[str, Any]) -> LLM:
    values = {field.name: getattr(llm, field.name) for field in fields(LLM)}
    return LLM(**{**values, "price": prices[llm.name].price})


def _is_identical(record: DecisionRecord, decisions: Decisions, row: int) -> bool:
    return (
        decisions.llm(row) == record.llm
        and float(decisions.propensities[row]) == record.propensity
        and decisions.errors[row].tolist() == [one.error for one in record.candidates]
        and decisions.costs[row].tolist() == [one.cost_usd for one in record.candidates]
    )
