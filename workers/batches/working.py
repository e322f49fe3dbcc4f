"""The second stage of a batch: dispatch its lines, collect their replies, plan again on the way."""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import takewhile

import numpy as np
import structlog

from routing.decisions import decide_placed
from routing.policies import Lagrangian
from routing.snapshot import Snapshot
from workers.batches.dispatching import Dispatcher
from workers.batches.handle import Handle
from workers.batches.ingest import Lines
from workers.batches.paces import Paces, Slow
from workers.batches.planning import read_plan
from workers.batches.preparing import embed, plan
from workers.batches.vectors import Vectors
from workers.batches.ways import Paid, WayBack, WayOut
from workers.batches.windows import Window
from workers.errors import WaitableError
from workers.router import RoutingView

#: Lines of one transaction.
_CHUNK = 256
#: A transaction is worth while for this part of the lines that may be under way.
_LEAST_PART = 4
_IDLE_MS = 50
_TENANT_PATIENCE_S = 5.0
#: A plan is made anew each time so many lines and this part of all were answered, or the former where this
#: part of the time to the deadline has passed.
_REPLAN_LINES, _REPLAN_PARTS = 100, 20
#: Lines that cost what is predicted are added in thought to those that were paid for.
_PRIOR_LINES = 100

log = structlog.get_logger(__name__)


class Working:
    """A batch in progress, with all that it holds open; close it after any error and open another.

    Opening finds where to go on: the lines that were dispatched from Kafka, those that were answered from
    Postgres and the files.

    The pace is what the window and the LLMs' gates let through, not what the deadline would allow: whoever
    ends early took nothing from live traffic, which goes first at each gate, and has time left for failures.
    """

    def __init__(self, handle: Handle, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._handle = handle
        self._stack = ExitStack()
        try:
            self._view: RoutingView = handle.view()
            self._lines = self._stack.enter_context(closing(Lines(handle.folder)))
            self._vectors: Vectors = self._stack.enter_context(
                closing(embed(handle, self._lines, self._view))
            )
            self._outbox: WayOut = self._stack.enter_context(closing(handle.open_outbox()))
            self._collector: WayBack = self._stack.enter_context(closing(handle.open_collector(self._lines)))
        except BaseException:
            self._stack.close()
            raise
        self._planned_at, self._planned_s = self._collector.count, time.monotonic()
        # Whether anything was published since the plan in force was made.
        self._moved = False
        self._dispatcher = Dispatcher(
            lines=self._lines,
            vectors=self._vectors,
            wishes=handle.wishes(),
            signer=handle.place.signer,
            settings=handle.place.settings,
            rng=np.random.default_rng(),
            now=now,
            purses=handle.open_purses(self._stack),
        )
        self._paces = Paces()
        #: Rows that were dispatched since the opening, and perhaps answered, with their LLMs.
        self._at_llms: list[tuple[int, str]] = []
        self._tenant_short_since: float | None = None
        self._window = Window(handle.place.settings.batch_window)
        #: Of each transaction since the opening: the row behind its last, and when it was committed.
        self._sent_to: list[int] = []
        self._sent_at: list[float] = []
        self._first_sent = self._outbox.position.lines

    def run(self) -> None:
        """Work until all lines are answered, the deadline passes, somebody cancels, or the process stops.

        Or until it is paused and every line under way is answered.
        """
        handle = self._handle
        while not handle.place.stop.is_set() and (batch := handle.look()).status == "in_progress":
            if handle.is_late():
                handle.note("late", unanswered=len(self._lines) - self._collector.count)
                handle.finalize()
                return
            if self.is_still():
                return
            self._follow_view()
            sent = 0 if batch.paused else self._dispatch_or_wait()
            self._collect(wait_ms=0 if sent else _IDLE_MS)
            if self._collector.count == len(self._lines):
                handle.finalize()

    def is_still(self) -> bool:
        """Tell whether the batch is paused with lines left, none of them under way."""
        answered = self._collector.count
        nothing_is_under_way = self._outbox.position.lines <= answered < len(self._lines)
        return self._handle.look().paused and nothing_is_under_way

    def close(self) -> None:
        """Let go of files and connections."""
        self._stack.close()

    def _dispatch_or_wait(self) -> int:
        """Dispatch; while something for it is away, the replies to lines under way are taken all the same."""
        try:
            return self._dispatch()
        except WaitableError as error:
            if self._outbox.position.lines <= self._collector.count:
                raise
            log.warning("batch_dispatches_nothing", batch=self._handle.id, problem=str(error))
            return 0

    def _dispatch(self) -> int:
        """Dispatch the next lines that there is room and money for; give how many."""
        begin, answered = self._outbox.position.lines, self._collector.count
        bound, rest = self._window.bound, len(self._lines) - begin
        room = min(answered + bound - begin, rest)
        in_force = read_plan(self._handle.look().plan)
        if room < max(1, min(bound // _LEAST_PART, rest)) or in_force is None:
            return 0
        rows = range(begin, begin + min(room, _CHUNK))
        purse = self._handle.purse(self._collector, self._outbox)
        found = self._dispatcher.dispatch(
            rows, self._view, in_force, purse, patient=bool(purse.lines_under_way) or not self._is_short()
        )
        if not found.waits_for_tenant:
            self._tenant_short_since = None
        elif self._tenant_short_since is None:
            self._tenant_short_since = time.monotonic()
        if found.step.lines:
            self._outbox.commit(found.records, step=found.step)
            self._collector.dispatched = self._outbox.position.as_dict()
            self._sent_to.append(self._outbox.position.lines)
            self._sent_at.append(time.monotonic())
            self._at_llms.extend((row, llm) for row, llm in zip(rows, found.llms, strict=False) if llm)
        return found.step.lines

    def _collect(self, *, wait_ms: int) -> None:
        """Take replies, and learn from how long their lines waited how many may be under way."""
        under_way = self._outbox.position.lines - self._collector.count
        paid = self._collector.paid
        known = paid[-1] if paid else None
        self._collector.collect(wait_ms=wait_ms)
        now = time.monotonic()
        waits = []
        for one in takewhile(lambda one: one is not known, reversed(paid)):
            if one.seconds is None or not self._first_sent <= one.row < self._outbox.position.lines:
                continue
            waits.append(now - self._sent_at[bisect_right(self._sent_to, one.row)] - one.seconds)
            self._paces.answered(one.llm, waits[-1])
        self._window.answered(waits, under_way=under_way)

    def _is_short(self) -> bool:
        """Tell whether the tenant's budget has been too short for the next line for some time.

        What settles is booked, and can be lent again, a little later than its reply is collected.
        """
        since = self._tenant_short_since
        return since is not None and time.monotonic() - since > _TENANT_PATIENCE_S

    def _follow_view(self) -> None:
        """Take over what was published since, and plan anew where that or the answers' cost asks for it."""
        view = self._handle.view()
        self._moved |= view.snapshot.versions != self._view.snapshot.versions
        if view.snapshot.cluster_map.fingerprint != self._view.snapshot.cluster_map.fingerprint:
            raise OSError("the cluster map in force has another embedder: the lines are embedded anew")
        self._view = view
        if not self._is_due():
            return
        self._planned_at, self._planned_s = self._collector.count, time.monotonic()
        self._replan(["error rates, prices or lengths have changed"] if self._moved else [])
        self._moved = False

    def _is_due(self) -> bool:
        """Tell whether so much has come of the plan in force that another may be better."""
        since = max(_REPLAN_LINES, len(self._lines) // _REPLAN_PARTS)
        if self._moved:
            since //= 5
        passed = time.monotonic() - self._planned_s
        if passed * _REPLAN_PARTS > passed + self._handle.seconds_left():
            since = min(since, _REPLAN_LINES)
        return self._collector.count - self._planned_at >= since

    def _find_slow(self) -> Slow:
        answered = self._collector.answered
        self._at_llms = [one for one in self._at_llms if not answered[one[0]]]
        return Slow(self._paces.measure(), Counter(llm for _, llm in self._at_llms))

    def _replan(self, reasons: Sequence[str]) -> None:
        slow = self._find_slow()
        in_force, begin = read_plan(self._handle.look().plan), self._outbox.position.lines
        if in_force is None or in_force.error_per_usd is None or begin >= len(self._lines):
            return
        correction = hold_against(self._collector.paid, self._lines, self._vectors, self._view.snapshot)
        costs = f"answers cost {correction:.3f} of what is predicted for them now"
        told = [f"{llm} takes {pace:.3g} lines in a second" for llm, pace in slow.paces.items()]
        found = plan(
            self._handle,
            self._lines,
            self._vectors,
            self._view,
            self._handle.purse(self._collector, self._outbox),
            at=begin,
            reason="; ".join((*reasons, costs, *told)),
            correction=correction,
            slow=slow,
        )
        self._handle.keep_plan(found)


def hold_against(paid: Sequence[Paid], lines: Lines, vectors: Vectors, snapshot: Snapshot) -> float:
    """Give what calls cost over what would be predicted for them now, drawn towards 1 while they are few.

    Predictions of now, not those of when they were decided: what has been learned since is corrected by
    itself, and would be corrected twice.
    """
    known = [one for one in paid if one.llm in snapshot.names]
    if not known:
        return 1.0
    rows = [one.row for one in known]
    decisions = decide_placed(
        snapshot.cluster_map.place(vectors.pick(rows)),
        lines.tokens(rows),
        lines.limits(rows),
        snapshot,
        Lagrangian(0.0),
        rng=np.random.default_rng(0),
    )
    columns = [snapshot.column(one.llm) for one in known]
    predicted = float(decisions.costs[np.arange(len(known)), columns].sum())
    if predicted <= 0:
        return 1.0
    prior = predicted / len(known) * _PRIOR_LINES
    return (sum(one.usd for one in known) + prior) / (predicted + prior)
