"""Counts feedback and books usage, each once."""

import time
from collections import Counter as Counted
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from prometheus_client import Counter
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from routing.embedders import Embedder, Fingerprint
from routing.errors import RoutingError
from workers.bookkeeping import Bookkeeper
from workers.decision_ids import DecisionSigner
from workers.embedding.loading import open_configured
from workers.errors import PoisonError, WaitableError, WorkersError
from workers.learner.mixing import MixWatch
from workers.learner.reading import Asked, FeedbackReader, Placer, day_of, refuse_entry
from workers.learner.watching import Observer
from workers.messages import Message, Record
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts, CountKey, lock_counting, round_error
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.corrections import Corrections, Received
from workers.storage.engine import transaction
from workers.storage.feedback import Correction, Feedback, FeedbackEntry, portion_cells
from workers.storage.llms import LLMs
from workers.storage.placements import Placements
from workers.storage.sources import Source, Sources, attribute
from workers.storage.watches import Watches
from workers.topics import Topics
from workers.transactions.dead_letters import dead_letter

DUPLICATES = Counter(
    "uniroute_duplicate_feedback_total",
    "Feedback left out because its id, or its decision from the same source, was counted before",
)
REFUSED = Counter("uniroute_refused_feedback_total", "Feedback that became a dead letter", ["error_class"])
CORRECTED = Counter("uniroute_corrected_feedback_total", "Feedback whose score a later one replaced")

#: Pieces of feedback by their place in the batch; the same, or why they are refused.
Entries = dict[int, FeedbackEntry]
Problems = dict[int, PoisonError]


class Learner:
    """Counts feedback and books usage.

    A batch that comes again changes nothing: what it holds of each topic is written in one database
    transaction, which leaves out what is there already.

    A decision counts once per source, however often and under whatever feedback ids it is scored; a
    correction takes the place of what it corrects. ``handle`` gives dead letters for what cannot be counted
    and nothing else; ``WaitableError`` passes through.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        signer: DecisionSigner,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        open_embedder: Callable[[Fingerprint], Embedder] | None = None,
    ) -> None:
        """``clock`` gives seconds since 1970; ``open_embedder`` is asked once a prompt is to be embedded."""
        self._engine = engine
        self._settings = settings
        self._bookkeeper = Bookkeeper(engine=engine, signer=signer, settings=settings)
        self._reader = FeedbackReader(signer, clock=clock, max_prompt_bytes=settings.max_prompt_bytes)
        self._placer = Placer(open_embedder or self._open_embedder)
        self._observer = Observer()
        self._clock = clock
        self._mix = MixWatch(engine)
        self._topics = Topics(settings.topic_prefix)

    def handle(self, batch: Sequence[Message]) -> list[list[Record]]:
        """Count and book what is new and give the dead letters of the rest, by message."""
        by_topic: dict[str, list[int]] = {self._topics.usage: [], self._topics.decisions: []}
        for row, message in enumerate(batch):
            by_topic.setdefault(message.topic, []).append(row)
        usage, decisions = by_topic.pop(self._topics.usage), by_topic.pop(self._topics.decisions)
        self._mix.watch([batch[row] for row in decisions])
        feedback = sorted(row for rows in by_topic.values() for row in rows)
        records: list[list[Record]] = [[] for _ in batch]
        for rows, handle in ((usage, self._bookkeeper.handle), (feedback, self._count)):
            if rows:
                for row, outputs in zip(rows, handle([batch[row] for row in rows]), strict=True):
                    records[row] = outputs
        return records

    def _count(self, batch: Sequence[Message]) -> list[list[Record]]:
        entries, problems = self._read(batch)
        with transaction(self._engine) as session:
            lock_counting(session, alone=False)
            known = _Known.read(session)
            _refuse(entries, problems, known.refuse)
            for row, entry in entries.items():
                entries[row] = known.stamp(entry)
            self._admit(session, entries, problems, known.sources)
            taken = Feedback(session).take(entries.values())
            order = {id(entry): row for row, entry in entries.items()}
            fresh = sorted(taken.fresh, key=lambda entry: order[id(entry)])
            for entry in taken.contradictions:
                problems[order[id(entry)]] = PoisonError(
                    "contradictory_feedback",
                    "the source scored this otherwise before: say so by `correction`, or declare sources "
                    "that disagree",
                )
            for entry in taken.reused:
                problems[order[id(entry)]] = PoisonError(
                    "reused_feedback_id", "its id is that of other feedback: give each piece its own"
                )
            self._observer.observe(session, [one for one in fresh if known.believes(one)])
            _add(session, fresh, taken.corrections)
        DUPLICATES.inc(taken.duplicates)
        CORRECTED.inc(len(taken.corrections))
        for problem in problems.values():
            REFUSED.labels(problem.error_class).inc()
        return [
            [self._dead_letter(message, problems[row])] if row in problems else []
            for row, message in enumerate(batch)
        ]

    def _read(self, batch: Sequence[Message]) -> tuple[Entries, Problems]:
        """Read what can be read; prompts are embedded."""
        entries: Entries = {}
        problems: Problems = {}
        asked: dict[int, Asked] = {}
        for row, message in enumerate(batch):
            try:
                found = self._reader.read(message)
            except PoisonError as error:
                problems[row] = error
                continue
            if isinstance(found, Asked):
                asked[row] = found
            else:
                entries[row] = found
        if asked:
            for row, placed in zip(asked, self._place(list(asked.values())), strict=True):
                if isinstance(placed, PoisonError):
                    problems[row] = placed
                else:
                    entries[row] = placed
        return dict(sorted(entries.items())), problems

    def _place(self, asked: Sequence[Asked]) -> Sequence[FeedbackEntry | PoisonError]:
        with transaction(self._engine) as session:
            fitted = ClusterMaps(session).active()
        if fitted is None:
            raise WaitableError("a cluster map", "none is in force yet: run `uniroute map fit`")
        try:
            return self._placer.place(asked, fitted.cluster_map, day=day_of(self._clock()))
        except (WorkersError, RoutingError) as error:
            if isinstance(error, WaitableError):
                raise
            problem = PoisonError("no_embedder", f"this learner cannot embed prompts: {error}")
            return [problem] * len(asked)

    def _open_embedder(self, fingerprint: Fingerprint) -> Embedder:
        return open_configured(self._settings, fingerprint)

    def _admit(
        self, session: Session, entries: Entries, problems: Problems, sources: Mapping[str, Source]
    ) -> None:
        """Meet new sources, and hold those that are capped to their caps, whatever other learners count.

        A cap holds whatever tenants a source names: nobody vouches for them. Corrections count towards it as
        first scores do; what was kept and comes again does not.
        """
        Sources(session).meet({entry.source for entry in entries.values()} - sources.keys())
        capped = {name: one.per_hour for name, one in sources.items() if one.per_hour is not None}
        taken: dict[str, int] = {}
        kept: Mapping[str, tuple[float, datetime]] = {}
        corrections: list[Received] = []
        if concerned := [one.feedback_id for one in entries.values() if one.source in capped]:
            Sources(session).lock({entry.source for entry in entries.values()} & capped.keys())
            hour_ago = datetime.fromtimestamp(self._clock(), tz=UTC) - timedelta(hours=1)
            taken = Feedback(session).taken_since(list(capped), hour_ago)
            kept = Feedback(session).kept(concerned)
            corrections = Corrections(session).since(list(capped), hour_ago)
        taken = dict(Counted(taken) + Counted(one.source for one in corrections))
        known = set(corrections)

        def check(entry: FeedbackEntry) -> PoisonError | None:
            cap = capped.get(entry.source)
            said = (entry.score, entry.event_time)
            again = Received(entry.source, entry.decision_id, *said) in known or (
                entry.feedback_id in kept and (not entry.correction or kept[entry.feedback_id] == said)
            )
            if cap is None or again:
                return None
            if taken.get(entry.source, 0) >= cap:
                return PoisonError("too_much_feedback", f"{entry.source!r} may give {cap} an hour")
            taken[entry.source] = taken.get(entry.source, 0) + 1
            return None

        _refuse(entries, problems, check)

    def _dead_letter(self, message: Message, error: PoisonError) -> Record:
        return dead_letter(
            message,
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=1,
            topic_prefix=self._settings.topic_prefix,
        )


def _refuse(
    entries: Entries, problems: Problems, check: Callable[[FeedbackEntry], PoisonError | None]
) -> None:
    """Move what ``check`` finds a problem with from the entries to the problems."""
    for row, entry in list(entries.items()):
        if problem := check(entry):
            problems[row] = problem
            del entries[row]


def _add(session: Session, fresh: Sequence[FeedbackEntry], corrections: Sequence[Correction]) -> None:
    """Split each piece over its cells; a correction moves what the piece that it corrects was split into.

    It does so on every map that piece stands on.
    """
    rows: list[tuple[CountKey, float, float]] = []
    for entry in fresh:
        error = round_error(entry.score)
        rows += [
            ((entry.map_version, entry.llm, entry.source, entry.epoch, entry.day, cell), error * share, share)
            for cell, share in portion_cells(entry.cells, entry.shares)
        ]
    elsewhere = Placements(session).of([one.corrected for one in corrections]) if corrections else {}
    for one in corrections:
        change = round_error(one.after) - round_error(one.before)
        rows += [
            ((version, one.llm, one.source, one.epoch, one.day, cell), change * share, 0.0)
            for version, portions in [(one.map_version, one.portions), *elsewhere.get(one.corrected, ())]
            for cell, share in portions
        ]
    CellCounts(session).add_feedback(rows)


@dataclass(frozen=True, slots=True)
class _Known:
    """The maps, LLMs and sources that feedback can be counted for, and how often each LLM had changed."""

    maps: frozenset[str]
    #: When each took over its name, where it was another's before.
    llms: Mapping[str, datetime | None]
    sources: Mapping[str, Source]
    epochs: Mapping[str, int]
    #: Sources that are excluded when this is read: the database's clock says so, and no sender's.
    excluded: frozenset[str]

    @classmethod
    def read(cls, session: Session) -> Self:
        sources = Sources(session).list()
        since = {name: one.excluded_since for name, one in sources.items() if one.excluded_since}
        now = session.scalar(select(func.now())) if since else None
        return cls(
            frozenset(ClusterMaps(session).list()),
            LLMs(session).renewals(),
            sources,
            Watches(session).epochs(),
            frozenset(name for name, moment in since.items() if now and moment <= now),
        )

    def refuse(self, entry: FeedbackEntry) -> PoisonError | None:
        return refuse_entry(entry, maps=self.maps, llms=self.llms)

    def believes(self, entry: FeedbackEntry) -> bool:
        """Tell whether what its source says may be held against an LLM: it may unless it is flagged."""
        source = self.sources.get(entry.source)
        return source is None or not source.flagged

    def stamp(self, entry: FeedbackEntry) -> FeedbackEntry:
        """Say of which source it is, whether that is excluded, and in which epoch it came."""
        source = attribute(entry.source, self.sources)
        if source != entry.source:
            entry = replace(entry, source=source)
        if source in self.excluded:
            entry = replace(entry, disposition="excluded")
        epoch = self.epochs.get(entry.llm, 0)
        return replace(entry, epoch=epoch) if epoch else entry
