"""Leaves a source of feedback out of all that was learned, and takes it back in."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from workers.learner.believing import believe
from workers.learner.refitting import refit
from workers.storage.cell_counts import CellCounts, lock_counting
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.feedback import Feedback
from workers.storage.journal import Journal
from workers.storage.llms import RATED_STATES, LLMs
from workers.storage.sources import Sources
from workers.storage.watches import Watches

#: Before any feedback.
_EVER = datetime(1, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMDifference:
    """What leaving a source out changes for one LLM."""

    llm: str
    #: Weighted labels that its rates rest on.
    labels_before: float
    labels_after: float
    #: Mean error rate over the cells of the map's first resolution.
    error_before: float
    error_after: float
    #: The most that the rate of any cell moves.
    largest_move: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What leaving a source out, or taking it in, changes."""

    pieces: int
    llms: tuple[LLMDifference, ...]
    #: The version whose rates are held in force meanwhile: the difference waits for their release.
    held: int | None = None


def exclude_source(
    engine: Engine, source: str, *, since: datetime | None = None, apply: bool = False
) -> Difference:
    """Rebuild the counts without what came of a source from ``since`` on, or ever; say what that changes.

    LLMs that it spoke of are watched anew, and what was counted of them weighs as if none had been noticed to
    change: an alarm may have been of its making. A change that was real will be noticed again.

    Without ``apply`` nothing stays changed. With it what the source gives from now on is kept and not
    counted, rates are published anew, unless some are held, and the journal says so. ``UsageError`` for an
    unknown source.
    """

    def change(session: Session) -> int:
        Sources(session).exclude(source, since=since or _EVER)
        return Feedback(session).exclude(source, since=since)

    return _rebuild(engine, source, change, kind="feedback excluded", since=since, apply=apply)


def include_source(engine: Engine, source: str, *, apply: bool = False) -> Difference:
    """Take a source in again, with all that was excluded of it; else as ``exclude_source``."""

    def change(session: Session) -> int:
        Sources(session).include(source)
        return Feedback(session).include(source)

    return _rebuild(engine, source, change, kind="feedback included", since=None, apply=apply)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rates:
    """What would be published: rates and weighted labels of the map's first resolution."""

    llms: tuple[str, ...]
    rates: NDArray[np.float64]
    labels: NDArray[np.float64]


def _rebuild(
    engine: Engine,
    source: str,
    change: Callable[[Session], int],
    *,
    kind: str,
    since: datetime | None,
    apply: bool,
) -> Difference:
    with transaction(engine) as session:
        lock_counting(session, alone=True)
        before = _rates_of(session)
        pieces = change(session)
        CellCounts(session).refold(source=source)
        # What a source said may have raised alarms, or kept some from being raised.
        anew = Watches(session).restart(Feedback(session).llms_of(source))
        CellCounts(session).begin_anew(anew)
        after, held = _rates_of(session), _held_version(session)
        if apply:
            said = None if since is None else since.isoformat()
            Journal(session).write(kind, source, pieces=pieces, since=said, watched_anew=list(anew))
        else:
            session.rollback()
    if apply:
        refit(engine, reason=f"{kind}: {source}", wait=True)
    return Difference(pieces=pieces, llms=_compare(before, after), held=held)


def _held_version(session: Session) -> int | None:
    active = ClusterMaps(session).active_version()
    current = None if active is None else ErrorRates(session).current(active)
    return None if current is None else current.held


def _rates_of(session: Session) -> _Rates | None:
    fitted = ClusterMaps(session).active()
    if fitted is None:
        return None
    names = tuple(found.llm.name for found in LLMs(session).list(states=RATED_STATES))
    if not names:
        return None
    sizes = fitted.cluster_map.sizes
    counts = believe(session, fitted.cluster_map.version, names, sizes=sizes).counts
    rates = fitted.prior.error_rates(counts.errors, counts.labels)
    return _Rates(llms=names, rates=rates[: sizes[0]], labels=counts.labels[: sizes[0]])


def _compare(before: _Rates | None, after: _Rates | None) -> tuple[LLMDifference, ...]:
    if before is None or after is None:
        return ()
    return tuple(
        LLMDifference(
            llm=name,
            labels_before=float(before.labels[:, column].sum()),
            labels_after=float(after.labels[:, column].sum()),
            error_before=float(before.rates[:, column].mean()),
            error_after=float(after.rates[:, column].mean()),
            largest_move=float(np.abs(after.rates[:, column] - before.rates[:, column]).max()),
        )
        for column, name in enumerate(before.llms)
    )
