"""Rehearses a batch: the work of a batcher, step by step, without Kafka, Postgres or a call."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import messages
from workers.batches.collecting import NOTHING
from workers.batches.folders import Store
from workers.batches.handle import Handle, Workplace
from workers.batches.ingest import Lines
from workers.batches.planning import Plan, as_facts
from workers.batches.preparing import prepare
from workers.batches.requests import Options
from workers.batches.tally import Tally
from workers.batches.ways import MOST_PAID, Paid, Position, Step, WayBack, WayOut, note_paid
from workers.batches.working import Working
from workers.decision_ids import DecisionSigner
from workers.messages import Message, Record
from workers.router import RoutingView
from workers.settings import Settings
from workers.storage.batches import Batch
from workers.storage.engine import make_engine
from workers.tenants import Purses, lend_nothing

_ID = "rehearsal"
_FILE = "file-rehearsal"
#: Stops a batch whose lines wait for ever: money that never comes back, say.
_MOST_IDLE = 1_000
#: Replies that come together.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What calling an LLM for a line came to."""

    cost_usd: float
    input_tokens: int
    output_tokens: int


#: What becomes of a line (its row among the good ones) that goes to an LLM (by name).
Answer = Callable[[int, str], Answered]


@dataclass(slots=True)
class Rehearsed:
    """What came of a batch."""

    #: The LLM of each good line; empty where it ended with an error.
    llms: list[str]
    tally: Tally
    #: In the order in which they were made.
    plans: list[Plan] = field(default_factory=list)


class _Way:
    """Both ways at once: what is dispatched is answered, in its order, each time somebody collects."""

    def __init__(self, batch: Batch, answer: Answer, settings: Settings) -> None:
        self.position = Position()
        self.tally = Tally.of(batch)
        self.answered: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self.dispatched: Mapping[str, Any] = NOTHING
        self.paid: deque[Paid] = deque(maxlen=MOST_PAID)
        self.llms: list[str] = []
        self._lines: Lines | None = None
        self._answer = answer
        self._queue: deque[Record] = deque()
        # Dispatches, and error replies of lines that nothing can take.
        self._topics = (f"{settings.topic_prefix}dispatch", settings.reply_prefix)
        self.undone = 0
        self.ended_as: str | None = None
        self._idle = 0

    def follow(self, lines: Lines) -> None:
        self._lines, self.llms = lines, [""] * len(lines)
        self.answered = np.zeros(len(lines), dtype=np.bool_)

    @property
    def count(self) -> int:
        return int(self.answered.sum())

    def commit(self, records: Sequence[Record], *, step: Step) -> None:
        self.position = self.position.after(step)
        self._queue.extend(record for record in records if record.topic.startswith(self._topics))

    def collect(self, *, wait_ms: int) -> int:  # noqa: ARG002  # nothing is waited for
        taken = [self._queue.popleft() for _ in range(min(_AT_ONCE, len(self._queue)))]
        self._idle = 0 if taken else self._idle + 1
        if self._idle > _MOST_IDLE:
            raise RuntimeError(f"the batch stands still with {self.count} lines answered")
        for record in taken:
            self._take(record)
        return len(taken)

    def write_undone(self, row: int, entry: bytes) -> None:  # noqa: ARG002  # nothing is written
        self.answered[row] = True
        self.undone += 1
        self.tally.failed += 1

    def save(self) -> None:
        return

    def close(self) -> None:
        return

    def _take(self, record: Record) -> None:
        number = int((record.key or b"").decode().rpartition(":")[2])
        row = None if self._lines is None else self._lines.find(number)
        if row is None:
            raise KeyError(record.key)
        self.answered[row] = True
        headers = dict(record.headers)
        llm = headers.get(messages.LLM, b"").decode()
        if not llm:
            self.tally.failed += 1
            return
        found = self._answer(row, llm)
        self.llms[row] = llm
        self.tally.completed += 1
        paid = (*record.headers, (messages.COST_USD, repr(found.cost_usd).encode()))
        reply = Message(
            topic="", partition=0, offset=0, timestamp_ms=0, key=record.key, value=None, headers=paid
        )
        self.tally.add_money(reply, again=False)
        note_paid(self.paid, row, reply)


class Rehearsal(Handle):
    """A batch that is in nobody's database: what is written of it is kept in memory."""

    def __init__(self, place: Workplace, options: Options, answer: Answer) -> None:
        super().__init__(_ID, place)
        self.plans: list[Plan] = []
        now = datetime.now(UTC)
        self._row = Batch(
            id=_ID,
            tenant="",
            status="validating",
            paused=False,
            input_file=_FILE,
            options=options.as_dict(),
            plan=None,
            created_at=now,
            deadline=now + timedelta(days=1),
            in_progress_at=None,
            cancelling_at=None,
            finalizing_at=None,
            ended_at=None,
            outcome=None,
            problem=None,
            total=0,
            completed=0,
            failed=0,
            repeated_calls=0,
            duplicated=0,
            spent_usd=Decimal(0),
            unsettled_usd=Decimal(0),
            settled_usd=Decimal(0),
            largest_overrun_usd=Decimal(0),
            predicted_usd=Decimal(0),
            llms={},
            positions={},
        )
        self.way = _Way(self._row, answer, place.settings)

    def look(self, *, at_once: bool = False) -> Batch:  # noqa: ARG002  # it is always as of now
        """Give the batch as it stands."""
        return self._row

    def is_late(self) -> bool:
        """Never: nothing takes time."""
        return False

    def set(self, **changes: Any) -> None:  # noqa: ANN401
        """Change the batch."""
        self._row = replace(self._row, **changes)

    def note(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Forget what happened."""

    def begin(self) -> None:
        """Move from validating to in progress."""
        self.set(status="in_progress")

    def finalize(self) -> None:
        """Move on to finalizing."""
        self.set(status="finalizing")

    def end(self, status: str, *, problem: str | None = None) -> None:
        """Give the batch its last status."""
        self.set(status=status, problem=problem)

    def keep_plan(self, plan: Plan) -> None:
        """Put a plan in force."""
        self.plans.append(plan)
        self.set(plan=dict(as_facts(plan)))

    def open_outbox(self) -> WayOut:
        """Open the way out, which is the way back too."""
        return self.way

    def open_purses(self, stack: ExitStack) -> Purses:  # noqa: ARG002  # nothing is lent
        """Open no tenant's purse."""
        return Purses(lend_nothing)

    def open_collector(self, lines: Lines) -> WayBack:
        """Open the way back."""
        self.way.follow(lines)
        return self.way


def rehearse(
    file: Path,
    options: Options,
    *,
    view: Callable[[], RoutingView],
    answer: Answer,
    folder: Path,
    settings: Settings,
) -> Rehearsed:
    """Run a file of requests as a batcher does, and give what came of it.

    ``view`` gives what to decide from as of now, so that what is learned on the way changes decisions as it
    does in an installation; ``folder`` is where the work lies. The steps are those of a batcher: checking,
    embedding, planning, deciding, reserving, settling, planning again. Only the two ways and the row in
    Postgres are played.
    """
    store = Store(folder)
    place = Workplace(
        engine=make_engine(settings.database_url),  # which nobody connects
        settings=settings,
        signer=DecisionSigner({0: b"rehearsal-rehearsal"}, current=0),
        store=store,
        view=view,
        embedding=threading.Lock(),
        stop=threading.Event(),
    )
    store.file(_FILE).parent.mkdir(parents=True, exist_ok=True)
    store.file(_FILE).symlink_to(file.resolve())
    handle = Rehearsal(place, options, answer)
    prepare(handle)
    working = Working(handle)
    try:
        working.run()
    finally:
        working.close()
    return Rehearsed(llms=handle.way.llms, tally=handle.way.tally, plans=handle.plans)
