"""Counts feedback and books usage, each once."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from prometheus_client import Counter
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from workers import messages
from workers.bookkeeping import Bookkeeper
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError
from workers.messages import FeedbackEvent, Message, Record
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.llms import LLMs
from workers.topics import Topics
from workers.transactions.dead_letters import dead_letter

_MAX_FEEDBACK_BYTES = 16 * 1024

DUPLICATES = Counter(
    "uniroute_duplicate_feedback_total",
    "Feedback left out because its id, or its decision from the same source, was counted before",
)


class Learner:
    """Counts feedback and books usage.

    A batch that comes again changes nothing: what it holds of each topic is written in one database
    transaction, which leaves out what is there already.

    A decision counts once per source, however often and under whatever feedback ids it is scored.
    ``handle`` gives dead letters for what cannot be counted and nothing else; ``WaitableError`` passes
    through.
    """

    def __init__(self, *, engine: Engine, signer: DecisionSigner, settings: Settings) -> None:
        self._engine = engine
        self._signer = signer
        self._settings = settings
        self._bookkeeper = Bookkeeper(engine=engine, signer=signer, settings=settings)
        self._usage_topic = Topics(settings.topic_prefix).usage

    def handle(self, batch: Sequence[Message]) -> list[list[Record]]:
        """Count and book what is new and give the dead letters of the rest, by message."""
        usage = [row for row, message in enumerate(batch) if message.topic == self._usage_topic]
        feedback = [row for row, message in enumerate(batch) if message.topic != self._usage_topic]
        records: list[list[Record]] = [[] for _ in batch]
        for rows, handle in ((usage, self._bookkeeper.handle), (feedback, self._count)):
            if rows:
                for row, outputs in zip(rows, handle([batch[row] for row in rows]), strict=True):
                    records[row] = outputs
        return records

    def _count(self, batch: Sequence[Message]) -> list[list[Record]]:
        records: list[list[Record]] = [[] for _ in batch]
        entries: dict[int, FeedbackEntry] = {}
        for row, message in enumerate(batch):
            try:
                entries[row] = self._read(message)
            except PoisonError as error:
                records[row] = [self._dead_letter(message, error)]
        with transaction(self._engine) as session:
            known = _Known.read(session)
            for row, entry in list(entries.items()):
                if problem := known.refuse(entry):
                    records[row] = [self._dead_letter(batch[row], problem)]
                    del entries[row]
            fresh = list(Feedback(session).record(entries.values()).values())
            rows = [(entry, cell) for entry in fresh for cell in entry.cells]
            CellCounts(session).add(
                [entry.map_version for entry, _ in rows],
                [entry.llm for entry, _ in rows],
                [cell for _, cell in rows],
                [(1.0 - entry.score) * entry.weight for entry, _ in rows],
                [entry.weight for entry, _ in rows],
            )
        DUPLICATES.inc(len(entries) - len(fresh))
        return records

    def _dead_letter(self, message: Message, error: PoisonError) -> Record:
        return dead_letter(
            message,
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=1,
            topic_prefix=self._settings.topic_prefix,
        )

    def _read(self, message: Message) -> FeedbackEntry:
        event = messages.decode(message.value, FeedbackEvent, max_bytes=_MAX_FEEDBACK_BYTES)
        event.check()
        facts = self._signer.verify(event.decision_id)
        try:
            return _entry(message, event, facts)
        except InvalidInputError as error:
            raise PoisonError("bad_feedback", str(error)) from error


@dataclass(frozen=True, slots=True)
class _Known:
    """The maps and LLMs that feedback can be counted for."""

    maps: frozenset[str]
    llms: frozenset[str]

    @classmethod
    def read(cls, session: Session) -> Self:
        return cls(frozenset(ClusterMaps(session).list()), frozenset(LLMs(session).names()))

    def refuse(self, entry: FeedbackEntry) -> PoisonError | None:
        """Say why an entry that was signed cannot be counted all the same: its database was another."""
        if entry.map_version not in self.maps:
            return PoisonError("unknown_map", f"no cluster map {entry.map_version} is kept in this database")
        if entry.llm not in self.llms:
            return PoisonError("unknown_llm", f"no LLM {entry.llm!r} was ever registered in this database")
        return None


def _entry(message: Message, event: FeedbackEvent, facts: DecisionFacts) -> FeedbackEntry:
    return FeedbackEntry(
        feedback_id=event.feedback_id,
        decision_id=_spell_once(event.decision_id),
        prompt_id=facts.prompt_id,
        llm=facts.llm,
        map_version=facts.map_version,
        cells=facts.cells,
        score=event.score,
        source=event.source,
        event_time=_read_time(message),
    )


def _spell_once(token: str) -> str:
    """Give a token that verifies in the spelling it was signed in: base64 has several for the same bytes."""
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _read_time(message: Message) -> datetime:
    """Give the record's time, which is whatever its producer wrote there."""
    try:
        return datetime.fromtimestamp(message.timestamp_ms / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise PoisonError(
            "bad_feedback", f"the record's timestamp {message.timestamp_ms} is no time"
        ) from error
