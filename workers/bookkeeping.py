"""From the usage topic to the books: what tenants spent, and how long answers and calls are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.costs import count_usage, time_replies
from workers import messages
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError
from workers.messages import Message, Record, ReservationRecord, UsageRecord
from workers.settings import Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.ledger import Entry, Ledger, Reservation, Settlement
from workers.storage.lengths import LengthCounts
from workers.storage.llms import LLMs
from workers.storage.tenants import DEFAULT_TENANT
from workers.transactions.dead_letters import dead_letter

_MAX_BYTES = 16 * 1024
#: No call has more tokens, whatever an endpoint says.
_MOST_TOKENS = 2**31 - 1
_LEAST_SECONDS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What one answer teaches of lengths and seconds."""

    map_version: str
    cells: tuple[int, ...]
    llm: str
    input_tokens: int
    output_tokens: int
    seconds: float


class Bookkeeper:
    """Books usage. A batch is one database transaction, so a batch that comes again changes nothing.

    ``handle`` gives dead letters for what cannot be booked and nothing else; ``WaitableError`` passes
    through. Answers of LLMs or maps that this database does not keep are paid for, and teach nothing.
    """

    def __init__(self, *, engine: Engine, signer: DecisionSigner, settings: Settings) -> None:
        self._engine = engine
        self._signer = signer
        self._settings = settings

    def handle(self, batch: Sequence[Message]) -> list[list[Record]]:
        """Book what is new and give the dead letters of the rest, by message."""
        records: list[list[Record]] = [[] for _ in batch]
        entries: list[Entry] = []
        lessons: dict[object, _Lesson] = {}
        for row, message in enumerate(batch):
            try:
                entry, lesson = self._read(message)
            except PoisonError as error:
                records[row] = [self._dead_letter(message, error)]
                continue
            entries.append(entry)
            if lesson is not None:
                lessons[entry.entry] = lesson
        with transaction(self._engine) as session:
            fresh = Ledger(session).book(entries)
            _learn(session, [lesson for key, lesson in lessons.items() if key in fresh])
        return records

    def _read(self, message: Message) -> tuple[Entry, _Lesson | None]:
        if message.header("ce_type") == messages.RESERVATION_EVENT.encode():
            reserved = messages.decode(message.value, ReservationRecord, max_bytes=_MAX_BYTES)
            facts = self._signer.verify(reserved.decision_id)
            return _reservation(reserved, facts), None
        record = messages.decode(message.value, UsageRecord, max_bytes=_MAX_BYTES)
        facts = self._signer.verify(record.decision_id)
        return _settlement(record, facts), _lesson(record, facts)

    def _dead_letter(self, message: Message, error: PoisonError) -> Record:
        return dead_letter(
            message,
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=1,
            topic_prefix=self._settings.topic_prefix,
        )


def _reservation(record: ReservationRecord, facts: DecisionFacts) -> Reservation:
    if record.reserved_usd < 0:
        raise PoisonError("bad_usage", f"reserved_usd is {record.reserved_usd}, which is below 0")
    return Reservation(
        decision_id=record.decision_id,
        decided_at=facts.decided_at,
        tenant=record.tenant,
        llm=facts.llm,
        grant=record.grant,
        usd=record.reserved_usd,
    )


def _settlement(record: UsageRecord, facts: DecisionFacts) -> Settlement:
    if record.cost_usd is not None and record.cost_usd < 0:
        raise PoisonError("bad_usage", f"cost_usd is {record.cost_usd}, which is below 0")
    return Settlement(
        usage_id=record.usage_id,
        decision_id=record.decision_id,
        decided_at=facts.decided_at,
        tenant=record.tenant or DEFAULT_TENANT,
        llm=record.llm,
        failed=record.outcome != "ok",
        usd=record.cost_usd if record.attempts else 0.0,  # nobody was called: it was kept from before
        input_tokens=_bounded(record.input_tokens),
        output_tokens=_bounded(record.output_tokens),
    )


def _lesson(record: UsageRecord, facts: DecisionFacts) -> _Lesson | None:
    if record.outcome != "ok" or record.input_tokens is None or record.output_tokens is None:
        return None
    return _Lesson(
        map_version=facts.map_version,
        cells=facts.cells,
        llm=record.llm,
        input_tokens=_bounded(record.input_tokens),
        output_tokens=_bounded(record.output_tokens),
        seconds=max(record.seconds, _LEAST_SECONDS),
    )


def _bounded(tokens: int | None) -> int:
    return min(max(tokens or 0, 0), _MOST_TOKENS)


def _learn(session: Session, lessons: Sequence[_Lesson]) -> None:
    """Add what answers teach to the sums, map by map in one order."""
    if not lessons:
        return
    maps, names = frozenset(ClusterMaps(session).list()), LLMs(session).names()
    by_map: defaultdict[str, list[_Lesson]] = defaultdict(list)
    for lesson in lessons:
        if lesson.map_version in maps and lesson.llm in names:
            by_map[lesson.map_version].append(lesson)
    counts = LengthCounts(session)
    timed: list[_Lesson] = []
    for map_version in sorted(by_map):
        taught = by_map[map_version]
        timed += taught
        cells = np.array([lesson.cells for lesson in taught], dtype=np.int32)
        usage = count_usage(
            cells,
            np.array([names.index(lesson.llm) for lesson in taught]),
            np.array([lesson.input_tokens for lesson in taught], dtype=np.float64),
            np.array([lesson.output_tokens for lesson in taught], dtype=np.float64),
            n_cells=int(cells.max(initial=0)) + 1,
            n_llms=len(names),
        )
        counts.add(map_version, names, usage)
    timings = time_replies(
        np.array([names.index(lesson.llm) for lesson in timed], dtype=np.int64),
        np.array([lesson.output_tokens for lesson in timed], dtype=np.float64),
        np.array([lesson.seconds for lesson in timed]),
        n_llms=len(names),
    )
    counts.add_seconds(names, timings)
