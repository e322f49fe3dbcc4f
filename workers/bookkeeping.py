"""From the usage topic to the books: what tenants spent, and how long answers and calls are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import Counter
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.costs import RatedCall, count_inputs, count_usage, time_replies
from workers import messages
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError
from workers.messages import TENANT_BUDGET, CallFact, Message, Record, ReservationRecord, UsageRecord
from workers.settings import Settings
from workers.storage.call_costs import BookedCall, CallBooks
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.ledger import Entry, Ledger, Reservation, Settlement
from workers.storage.lengths import LengthCounts
from workers.storage.llms import LLMs
from workers.storage.tenants import DEFAULT_TENANT
from workers.transactions.dead_letters import dead_letter

#: Of a record of usage: about a hundred bytes for each call.
_MAX_BYTES = 1024 * 1024
#: No call has more tokens, whatever an endpoint says.
_MOST_TOKENS = 2**31 - 1
_LEAST_SECONDS = 1e-3
_MOST_USD = 1e15

SETTLED_USD = Counter("uniroute_settled_usd_total", "USD of calls whose usage was told", ["llm"])
PREDICTED_USD = Counter(
    "uniroute_predicted_usd_total", "USD that decisions expected of calls that answered them at once", ["llm"]
)
PREDICTED_COST_USD = Counter("uniroute_predicted_cost_usd_total", "USD that these calls cost", ["llm"])
#: The greatest amounts, and the latest time, that are believed.
_MOST = {"reserved_usd": 1e15, "policy_usd": 1e15, "policy_period": 2**32 - 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What one answer teaches of lengths and seconds."""

    map_version: str
    cells: tuple[int, ...]
    llm: str
    input_tokens: int
    output_tokens: int
    seconds: float
    #: Input tokens as the router estimated them, where it said so.
    estimated_tokens: float | None


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
        calls: dict[object, list[BookedCall]] = {}
        for row, message in enumerate(batch):
            try:
                entry, lesson, calls_made = self._read(message)
            except PoisonError as error:
                records[row] = [self._dead_letter(message, error)]
                continue
            entries.append(entry)
            calls[entry.entry] = calls_made
            if lesson is not None:
                lessons[entry.entry] = lesson
        with transaction(self._engine) as session:
            fresh = Ledger(session).book(entries)
            _learn(session, [lesson for key, lesson in lessons.items() if key in fresh])
            paid = [call for key, made in calls.items() if key in fresh for call in made]
            CallBooks(session).add(paid)
            known = LLMs(session).names() if paid else ()
        _count([call for call in paid if call.llm in known])
        return records

    def _read(self, message: Message) -> tuple[Entry, _Lesson | None, list[BookedCall]]:
        if message.header("ce_type") == messages.RESERVATION_EVENT.encode():
            reserved = messages.decode(message.value, ReservationRecord, max_bytes=_MAX_BYTES)
            facts = self._signer.verify(reserved.decision_id)
            return _reservation(reserved, facts), None, []
        record = messages.decode(message.value, UsageRecord, max_bytes=_MAX_BYTES)
        facts = self._signer.verify(record.decision_id)
        return _settlement(record, facts), _lesson(record, facts), _paid_calls(record, facts)

    def _dead_letter(self, message: Message, error: PoisonError) -> Record:
        return dead_letter(
            message,
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=1,
            topic_prefix=self._settings.topic_prefix,
        )


def _reservation(record: ReservationRecord, facts: DecisionFacts) -> Reservation:
    for name in ("reserved_usd", "policy_usd", "policy_period"):
        if not 0 <= (value := getattr(record, name)) <= _MOST[name]:
            raise PoisonError("bad_usage", f"{name} is {value}, which is not within 0 and {_MOST[name]:g}")
    return Reservation(
        decision_id=record.decision_id,
        decided_at=facts.decided_at,
        tenant=record.tenant,
        llm=facts.llm,
        grant=record.grant,
        usd=record.reserved_usd,
        policy=record.policy,
        period=record.policy_period,
        policy_grant=record.policy_grant,
        policy_usd=record.policy_usd,
    )


def _settlement(record: UsageRecord, facts: DecisionFacts) -> Settlement:
    if record.cost_usd is not None and record.cost_usd < 0:
        raise PoisonError("bad_usage", f"cost_usd is {record.cost_usd}, which is below 0")
    if not 0 <= record.unsettled_usd <= _MOST_USD:
        raise PoisonError(
            "bad_usage", f"unsettled_usd is {record.unsettled_usd}, which is not within 0 and {_MOST_USD:g}"
        )
    if not 0 <= record.policy_period <= _MOST["policy_period"]:
        raise PoisonError("bad_usage", f"policy_period is {record.policy_period}, which is no time")
    return Settlement(
        usage_id=record.usage_id,
        decision_id=record.decision_id,
        decided_at=facts.decided_at,
        tenant=record.tenant or DEFAULT_TENANT,
        llm=record.llm,
        failed=record.outcome != "ok",
        usd=record.cost_usd if record.attempts else 0.0,  # nobody was called: it was kept from before
        unsettled_usd=record.unsettled_usd,
        input_tokens=_bounded(record.input_tokens),
        output_tokens=_bounded(record.output_tokens),
        degraded=record.degraded == TENANT_BUDGET,
        policy=record.policy.rpartition("@")[0] or record.policy,
        period=record.policy_period,
        expected_usd=max(record.expected_usd, 0.0),
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
        estimated_tokens=record.estimated_tokens or None,
    )


def _paid_calls(record: UsageRecord, facts: DecisionFacts) -> list[BookedCall]:
    """Give the calls whose cost is known; what the decision expected goes with the one that it foresaw.

    That is the call that answered, where the LLM that was decided on did so at once.
    """
    foreseen = record.outcome == "ok" and record.expected_usd > 0 and record.llm == facts.llm
    alone = [call.llm for call in record.calls] == [facts.llm]
    return [
        BookedCall(
            tenant=record.tenant or DEFAULT_TENANT,
            decided_at=facts.decided_at,
            llm=call.llm,
            rated=_rated(call, record),
            predicted_usd=record.expected_usd if foreseen and alone else None,
        )
        for call in record.calls
        if call.cost_usd is not None
    ]


def _rated(call: CallFact, record: UsageRecord) -> RatedCall:
    if call.cost_usd is None or not 0 <= call.cost_usd <= _MOST_USD:
        raise PoisonError(
            "bad_usage", f"a call cost {call.cost_usd} USD, which is not within 0 and {_MOST_USD:g}"
        )
    input_tokens = _bounded(call.input_tokens)
    return RatedCall(
        input_tokens=input_tokens,
        output_tokens=_bounded(call.output_tokens),
        cached_input_tokens=min(_bounded(call.cached_tokens), input_tokens),
        cost_usd=call.cost_usd,
        price_version=str(call.price_version or (record.price_version if call.llm == record.llm else 0)),
    )


def _count(calls: Sequence[BookedCall]) -> None:
    for call in calls:
        SETTLED_USD.labels(call.llm).inc(call.rated.cost_usd)
        if call.predicted_usd is not None:
            PREDICTED_USD.labels(call.llm).inc(call.predicted_usd)
            PREDICTED_COST_USD.labels(call.llm).inc(call.rated.cost_usd)


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
    told = [(lesson, lesson.estimated_tokens) for lesson in timed if lesson.estimated_tokens is not None]
    inputs = count_inputs(
        np.array([names.index(lesson.llm) for lesson, _ in told], dtype=np.int64),
        np.array([estimated for _, estimated in told], dtype=np.float64),
        np.array([lesson.input_tokens for lesson, _ in told], dtype=np.float64),
        n_llms=len(names),
    )
    counts.add_inputs(names, inputs)
