"""Watches the feedback of every LLM for a change, against the error rates that were in force before it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge
from sqlalchemy.orm import Session

from routing.learning import DriftRule, follow_llm
from workers.learner.believing import believe
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.error_rates import ErrorRates
from workers.storage.feedback import FeedbackEntry
from workers.storage.journal import Journal
from workers.storage.watches import KeptWatch, Watches

ALARMS = Counter("uniroute_drift_alarms_total", "LLMs noticed to have got worse, or better again", ["change"])
UNSTEADY = Gauge(
    "uniroute_drifting_llms", "LLMs that got worse, or return, as of this learner's last batch", ["standing"]
)
RULE = DriftRule()

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expectations:
    """What was expected of each LLM when the rates in force were made, and the labels that rests on."""

    map_version: str
    rates_version: int
    #: When they were published.
    since: datetime
    columns: Mapping[str, int]
    #: (n_cells, n_llms).
    rates: NDArray[np.float64]
    #: (n_llms,): overall predicted error.
    levels: NDArray[np.float64]
    #: (n_llms,): labels, those before a change scaled down.
    evidence: NDArray[np.float64]


class Observer:
    """Follows LLMs, batch by batch; holds the rates in force, read again when their version moves."""

    def __init__(self, rule: DriftRule = RULE) -> None:
        self._rule = rule
        self._held: Expectations | None = None

    def observe(self, session: Session, fresh: Sequence[FeedbackEntry]) -> None:
        """Take in pieces that are counted for the first time, in the order they came.

        What an alarm says is kept in the same transaction: the LLM's new epoch, in which what was counted
        before weighs ``KEEP_AFTER_CHANGE``, and an entry of the journal. Feedback on another map than the
        one in force, on an LLM without rates, and on one whose rates are not yet those after its last alarm
        says nothing here.
        """
        expected = self._expect(session)
        if expected is None:
            return
        pieces = _by_llm(fresh, expected)
        if not pieces:
            return
        watches = Watches(session)
        moved, changed = {}, {}
        for llm, kept in watches.lock(pieces).items():
            if kept.changed_at is not None and kept.changed_at >= expected.since:
                continue  # these rates are of before: they would raise the same alarm again
            moved[llm], change = self._follow(kept, pieces[llm], expected, expected.columns[llm])
            if change:
                changed[llm] = change
        watches.keep(moved, changed=changed)
        for llm, change in changed.items():
            _tell(session, llm, change, moved[llm])
        if changed:
            self._held = None  # what it rests on has shrunk
        standings = [one.watch.standing for one in watches.list().values()]
        for standing in ("worse", "returning"):
            UNSTEADY.labels(standing).set(standings.count(standing))

    def _follow(
        self, kept: KeptWatch, pieces: Sequence[FeedbackEntry], expected: Expectations, column: int
    ) -> tuple[KeptWatch, str]:
        rates = expected.rates[:, column]
        watch, alarm = follow_llm(
            self._rule,
            kept.watch,
            [1.0 - one.score for one in pieces],
            np.clip([_expected_error(rates, one) for one in pieces], 0.0, 1.0),
            level=float(expected.levels[column]),
            evidence=float(expected.evidence[column]),
        )
        if alarm is None:
            return KeptWatch(watch=watch, epoch=kept.epoch, changed_at=kept.changed_at), ""
        return KeptWatch(watch=watch, epoch=kept.epoch + 1), alarm.change

    def _expect(self, session: Session) -> Expectations | None:
        map_version = ClusterMaps(session).active_version()
        if map_version is None:
            return None
        version = ErrorRates(session).current_version(map_version)
        if version is None:
            return None
        held = self._held
        if held is None or (held.map_version, held.rates_version) != (map_version, version):
            self._held = _read_expectations(session, map_version)
        return self._held


def _expected_error(rates: NDArray[np.float64], piece: FeedbackEntry) -> float:
    """Give the mean rate (C,) of the cells of a piece, each as far as it counts the piece."""
    cells = list(piece.cells)
    return float(np.average(rates[cells], weights=piece.shares or None))


def _by_llm(fresh: Sequence[FeedbackEntry], expected: Expectations) -> dict[str, list[FeedbackEntry]]:
    pieces: dict[str, list[FeedbackEntry]] = {}
    for one in fresh:
        if one.map_version == expected.map_version and one.llm in expected.columns:
            pieces.setdefault(one.llm, []).append(one)
    return pieces


def _read_expectations(session: Session, map_version: str) -> Expectations | None:
    fitted, rates = ClusterMaps(session).get(map_version), ErrorRates(session).current(map_version)
    if fitted is None or rates is None:
        return None
    first, cells = fitted.cluster_map.sizes[0], sum(fitted.cluster_map.sizes)
    # What forgets learns a change before it is noticed: nothing is forgotten here but what an alarm ended.
    lasting = believe(session, map_version, rates.llms, sizes=fitted.cluster_map.sizes, half_life=math.inf)
    predicted = fitted.prior.error_rates(lasting.counts.errors, lasting.counts.labels)
    counts = CellCounts(session)
    epochs = Watches(session).epochs()
    labels = counts.labels(map_version, rates.llms, n_cells=cells, epochs=epochs)
    for one in counts.by_source(map_version, rates.llms, n_cells=cells, epochs=epochs).values():
        labels += one
    seen = labels.labels[:first]
    shares = seen.sum(axis=1) + 1.0
    levels = (shares @ predicted[:first]) / shares.sum()
    return Expectations(
        map_version=map_version,
        rates_version=rates.version,
        since=rates.created_at,
        columns={name: column for column, name in enumerate(rates.llms)},
        rates=predicted,
        levels=np.clip(levels, 0.0, 1.0),
        evidence=seen.sum(axis=0),
    )


def _tell(session: Session, llm: str, change: str, kept: KeptWatch) -> None:
    CellCounts(session).mark_labels(llm, epoch=kept.epoch)
    Journal(session).write("drift", llm, change=change, epoch=kept.epoch)
    ALARMS.labels(change).inc()
    log.warning("llm_drifted", llm=llm, change=change)
