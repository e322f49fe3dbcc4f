"""Puts together again what logged decisions were made from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields

import msgspec
import numpy as np
from sqlalchemy.orm import Session

from routing.clusters import Placement
from routing.costs import LatencyModel, LengthModel
from routing.decisions import Decisions, decide_placed
from routing.llms import LLM, Price
from routing.policies import LoggedDraws, Policy
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions
from workers.errors import UsageError
from workers.messages import DecisionRecord
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.error_rates import ErrorRates
from workers.storage.lengths import Lengths
from workers.storage.llms import LLMs
from workers.storage.prices import Prices


def state_of(record: DecisionRecord) -> tuple[object, ...]:
    """Name the snapshot that a decision was made from: equal names, equal snapshots."""
    versions = record.versions
    candidates = tuple((one.llm, one.output_tokens) for one in record.candidates)
    trials = tuple(sorted(record.canaries.items()))
    return versions.map, versions.rates, versions.prices, versions.llms, versions.lengths, candidates, trials


def rebuild_snapshot(
    session: Session, record: DecisionRecord, *, prices: Mapping[str, Price] | None = None
) -> Snapshot:
    """Give the snapshot that a decision was made from, with other ``prices`` in place of those in force then.

    Raises ``UsageError`` where a version is not kept in this database.
    """
    fitted = ClusterMaps(session).get(record.versions.map)
    rates = ErrorRates(session).get(int(record.versions.rates))
    if fitted is None or rates is None:
        raise UsageError(
            f"cluster map {record.versions.map} or error rates {record.versions.rates} are not kept in this "
            "database, so the decisions made from them cannot be made again"
        )
    registered = {one.llm.name: one.llm for one in LLMs(session).list()}
    if record.versions.llms:
        registered.update(LLMs(session).at_version(int(record.versions.llms)))
    then = Prices(session).named(record.versions.prices)
    charged = {**{name: one.price for name, one in then.items()}, **(prices or {})}
    llms = tuple(replace_price(registered[one.llm], charged[one.llm]) for one in record.candidates)
    columns = [rates.llms.index(llm.name) for llm in llms]
    lengths, latencies = _rebuild_models(session, record)
    return Snapshot(
        cluster_map=fitted.cluster_map,
        llms=llms,
        error_rates=rates.rates[:, columns],
        output_tokens=np.array([one.output_tokens for one in record.candidates]),
        error_deviations=None if rates.deviations is None else rates.deviations[:, columns],
        versions=Versions(
            error_rates=record.versions.rates,
            prices=record.versions.prices,
            llms=record.versions.llms,
            lengths=record.versions.lengths,
        ),
        lengths=lengths,
        latencies=latencies,
        canaries=record.canaries,
    )


def _rebuild_models(
    session: Session, record: DecisionRecord
) -> tuple[LengthModel | None, LatencyModel | None]:
    if not record.versions.lengths:
        return None, None
    learned = Lengths(session).get(int(record.versions.lengths))
    if learned is None:
        raise UsageError(
            f"lengths {record.versions.lengths} are not kept in this database, so the decisions made from "
            "them cannot be made again"
        )
    return learned.of(
        [one.llm for one in record.candidates], np.array([one.output_tokens for one in record.candidates])
    )


def replace_price(llm: LLM, price: Price) -> LLM:
    """Give the same LLM at another price."""
    return LLM(**{**{field.name: getattr(llm, field.name) for field in fields(LLM)}, "price": price})


def decide_logged(
    records: Sequence[DecisionRecord], snapshot: Snapshot, policy: Policy, *, fill_draws: bool = False
) -> Decisions:
    """Decide logged prompts from their weights, tokens, limits and, where one was drawn, their draws.

    With ``fill_draws`` a prompt for which none was drawn gets one that follows from its decision's id.
    """
    placement = Placement(
        weights=np.stack([np.frombuffer(record.weights, dtype="<f4") for record in records]),
        cells=np.array([record.cells for record in records], dtype=np.int32),
    )
    missing = _draw_for if fill_draws else lambda _: np.nan
    draws = np.array([missing(record) if record.draw is None else record.draw for record in records])
    return decide_placed(
        placement,
        np.array([record.input_tokens for record in records]),
        [msgspec.convert(record.limits, Limits) for record in records],
        snapshot,
        policy,
        rng=LoggedDraws(draws),
    )


def _draw_for(record: DecisionRecord) -> float:
    """Give a number in [0, 1), evenly spread over decisions and the same whenever it is asked for."""
    digest = hashlib.sha256(record.decision_id.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
