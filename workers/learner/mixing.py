"""Watches the mix of routed prompts for a change: whether the map in force still fits them."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.learning import MixReport, PromptMix, compare_mix
from workers import messages
from workers.decision_ids import read_facts
from workers.errors import PoisonError
from workers.messages import DecisionRecord, Message
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.journal import Journal
from workers.storage.prompt_mixes import PromptMixes
from workers.topics import MAX_RECORD_BYTES

#: Prompts of a window: enough to see a tenth of them move among 20 clusters.
WINDOW = 1_000

MOVED = Gauge(
    "uniroute_prompt_mix_moved",
    "Share of the last window's prompts that moved to other clusters than the map's",
)
FARTHER = Gauge(
    "uniroute_prompt_mix_farther",
    "Rise of the last window's distance to the nearest centroid, in standard deviations of a prompt's",
)
MISFIT = Gauge("uniroute_map_misfit", "1 while the map in force does not fit the prompts that are routed")
UNREADABLE = Counter("uniroute_unreadable_decisions_total", "Decision records left out of the mix of prompts")

log = structlog.get_logger(__name__)


def watched_resolution(sizes: Sequence[int]) -> slice:
    """Give the cells whose shares are watched: the middle resolution's, 20 of the usual 155."""
    middle = len(sizes) // 2
    start = sum(sizes[:middle])
    return slice(start, start + sizes[middle])


class MixWatch:
    """Adds routed prompts up in windows, and holds each full one against the prompts of their map.

    A batch that comes again after a crash is added again: a window is then a little shorter, and no count
    that rates are made of is touched. Where the map's own prompts were not kept, nothing is compared.
    """

    def __init__(self, engine: Engine, *, window: int = WINDOW) -> None:
        self._engine = engine
        self._window = window

    def watch(self, batch: Sequence[Message]) -> None:
        """Take in records of the decisions topic."""
        placed = sorted(one for message in batch if (one := _read(message)) is not None)
        if not placed:
            return
        with transaction(self._engine) as session:
            for map_version, rows in groupby(placed, key=lambda one: one[0]):
                self._add(session, map_version, [(cells, distance) for _, cells, distance in rows])

    def _add(self, session: Session, map_version: str, rows: Sequence[tuple[tuple[int, ...], float]]) -> None:
        fitted = ClusterMaps(session).get(map_version)
        if fitted is None:
            return
        sizes = fitted.cluster_map.sizes
        watched = watched_resolution(sizes)
        mixes = PromptMixes(session)
        kept = mixes.lock(map_version, size=sizes[len(sizes) // 2])
        window = kept.window + PromptMix.of(
            [cells[len(sizes) // 2] - watched.start for cells, _ in rows],
            [distance for _, distance in rows],
            size=sizes[len(sizes) // 2],
        )
        reference = ClusterMaps(session).mix(map_version)
        if window.prompts >= self._window and reference is not None:
            report = compare_mix(reference, window)
            mixes.report(map_version, report, windows=kept.windows + 1)
            before = kept.report is not None and kept.report.drifted
            _tell(session, map_version, report, before=before)
            window = PromptMix(cells=0.0 * window.cells, distance=0.0, distance_squared=0.0)
        mixes.keep(map_version, window)


def _read(message: Message) -> tuple[str, tuple[int, ...], float] | None:
    """Give map, cells and distance of a decision; ``None`` where it has no distance or cannot be read."""
    try:
        record = messages.decode(message.value, DecisionRecord, max_bytes=MAX_RECORD_BYTES)
        if record.distance is None:
            return None
        return read_facts(record.decision_id).map_version, record.cells, record.distance
    except PoisonError:
        UNREADABLE.inc()  # it stays on its topic, where replay names it
        return None


def _tell(session: Session, map_version: str, report: MixReport, *, before: bool) -> None:
    MOVED.set(report.moved)
    FARTHER.set(report.farther)
    MISFIT.set(report.drifted)
    if report.drifted == before:
        return
    change = "misfit" if report.drifted else "fits again"
    Journal(session).write("prompt mix", map_version, change=change, **asdict(report))
    log.warning("prompt_mix_changed", map=map_version, change=change, moved=report.moved)
