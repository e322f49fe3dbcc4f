"""A batch in the hands of the one process that works on it: its row, its folder, its connections."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Engine

from workers.batches.collecting import NOTHING, Collector
from workers.batches.folders import BatchFolder, Store
from workers.batches.ingest import Lines
from workers.batches.outbox import Outbox
from workers.batches.planning import Plan, as_facts
from workers.batches.purse import Purse
from workers.batches.requests import Options, Wishes
from workers.batches.ways import Position, WayBack, WayOut
from workers.decision_ids import DecisionSigner
from workers.errors import WaitableError
from workers.router import RoutingView
from workers.settings import Settings
from workers.storage.batches import Batch, Batches
from workers.storage.engine import transaction
from workers.tenants import Lender, Purses
from workers.topics import TopicSpec, batch_replies, create_topics

#: How soon a word of a person (pause, cancel) is heard.
_LOOK_S = 0.5
_REPLY_RETENTION = timedelta(days=7)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What every batch of a batcher works with."""

    engine: Engine
    settings: Settings
    signer: DecisionSigner
    store: Store
    #: What to decide from, as of now; ``None`` while there is none.
    view: Callable[[], RoutingView | None]
    #: One embedder serves all batches, one at a time.
    embedding: threading.Lock
    stop: threading.Event


class Handle:
    """Reads and writes one batch's row, and opens what its work needs.

    What it writes belongs to whoever holds the folder's lock, but for the status, which people move too.
    """

    def __init__(self, batch_id: str, place: Workplace) -> None:
        self.id = batch_id
        self.place = place
        self.folder: BatchFolder = place.store.batch(batch_id)
        self.reply_topic = reply_topic(place.settings)
        self._batch: Batch | None = None
        self._looked_at = 0.0
        self._late = False

    def look(self, *, at_once: bool = False) -> Batch:
        """Give the batch as it stood within the last half second, or as it stands now."""
        now = time.monotonic()
        if self._batch is None or at_once or now - self._looked_at >= _LOOK_S:
            with transaction(self.place.engine) as session:
                batches = Batches(session)
                self._batch = batches.get(self.id)
                self._late = batches.now() >= self._batch.deadline
            self._looked_at = now
        return self._batch

    def is_stopped(self) -> bool:
        """Tell whether what is under way should end.

        The process does, or somebody cancelled, or the deadline has passed, or somebody paused a batch that
        is still being prepared.
        """
        batch = self.look()
        paused = batch.paused and batch.status == "validating"
        return self.place.stop.is_set() or batch.status == "cancelling" or paused or self.is_late()

    def is_late(self) -> bool:
        """Tell whether the deadline had passed at the last look, by the database's clock."""
        self.look()
        return self._late

    def seconds_left(self) -> float:
        """Give the seconds to the deadline; 1 where it is nearer, or past."""
        return max(1.0, (self.look().deadline - datetime.now(UTC)).total_seconds())

    def set(self, **changes: Any) -> None:  # noqa: ANN401
        """Write columns of the batch."""
        with transaction(self.place.engine) as session:
            Batches(session).set(self.id, **changes)
        self._batch = None

    def note(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Write what happened into the journal."""
        with transaction(self.place.engine) as session:
            Batches(session).note(self.id, event, **facts)

    def begin(self) -> None:
        """Move from validating to in progress."""
        with transaction(self.place.engine) as session:
            batches = Batches(session)
            batches.move(self.id, "in_progress", since=("validating",), in_progress_at=batches.now())
        self._batch = None

    def finalize(self) -> None:
        """Move on to finalizing, unless somebody cancelled meanwhile."""
        with transaction(self.place.engine) as session:
            batches = Batches(session)
            batches.move(
                self.id, "finalizing", since=("validating", "in_progress"), finalizing_at=batches.now()
            )
        self._batch = None

    def end(self, status: str, *, problem: str | None = None) -> None:
        """Give the batch its last status: ``cancelled`` where somebody cancelled, however late."""
        with transaction(self.place.engine) as session:
            batches = Batches(session)
            changes = {"ended_at": batches.now(), "problem": problem}
            since = ("validating", "in_progress", "finalizing")
            ended = batches.move(self.id, status, since=since, **changes)
            if not ended and batches.move(self.id, "cancelled", since=("cancelling",), **changes):
                ended, status = True, "cancelled"
            if ended:
                batches.note(self.id, status, **({} if problem is None else {"problem": problem}))
        self._batch = None
        log.info("batch_ended", batch=self.id, status=status, problem=problem)

    def keep_plan(self, plan: Plan) -> None:
        """Put a plan in force, and into the journal."""
        facts = dict(as_facts(plan))
        with transaction(self.place.engine) as session:
            batches = Batches(session)
            batches.set(self.id, plan=facts)
            batches.note(self.id, "planned", **facts)
        self._batch = None

    def options(self) -> Options:
        """Give what was asked for."""
        return Options.read(self.look().options)

    def wishes(self) -> Wishes:
        """Give what every prompt of the batch carries."""
        batch = self.look()
        return Wishes(
            batch_id=batch.id, reply_to=self.reply_topic, deadline=batch.deadline, tenant=batch.tenant
        )

    def view(self) -> RoutingView:
        """Give what to decide from; ``WaitableError`` while there is nothing."""
        view = self.place.view()
        if view is None:
            raise WaitableError(
                "Postgres", "no cluster map with error rates is in force: run uniroute map fit"
            )
        return view

    def open_outbox(self) -> WayOut:
        """Open the way out; the reply topic is made first where it is missing."""
        spec = TopicSpec(
            name=self.reply_topic,
            partitions=self.place.settings.partitions,
            retention_ms=int(_REPLY_RETENTION.total_seconds() * 1000),
        )
        create_topics(self.place.settings, [spec])
        kept = self.look(at_once=True).positions.get("dispatched", NOTHING)
        return Outbox(self.id, self.reply_topic, self.place.settings, known=Position.read(kept))

    def open_purses(self, stack: ExitStack) -> Purses:
        """Open what is reserved from of the tenant's budget; ``stack`` gives the rest back at its end."""
        lender = Lender(self.place.engine, slot=f"batch/{self.id}")
        lender.claim_back()
        stack.callback(lender.claim_back)
        return Purses(lender)

    def open_collector(self, lines: Lines) -> WayBack:
        """Open the way back."""
        return Collector(
            self.look(at_once=True),
            folder=self.folder,
            lines=lines,
            reply_topic=self.reply_topic,
            engine=self.place.engine,
            settings=self.place.settings,
        )

    def purse(self, collector: WayBack | None = None, outbox: WayOut | None = None) -> Purse:
        """Give the batch's money as of now; before anything was sent without the two."""
        tally = self.look() if collector is None else collector.tally
        sent = Position() if outbox is None else outbox.position
        return Purse(
            budget_usd=self.look().budget_usd,
            spent_usd=tally.spent_usd + tally.unsettled_usd,
            reserved_usd=sent.reserved_usd,
            settled_usd=tally.settled_usd,
            largest_overrun_usd=tally.largest_overrun_usd,
            lines_under_way=0 if collector is None else sent.lines - collector.count,
            expected_under_way_usd=max(0.0, sent.expected_usd - float(tally.predicted_usd)),
            largest_usd=sent.largest_usd,
        )


def reply_topic(settings: Settings) -> str:
    """Name the topic that the replies of all batches come to.

    One for all, and it stays: executors would ask for ever for the metadata of a topic that is gone.
    """
    return batch_replies(settings.reply_prefix)
