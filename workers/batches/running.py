"""Runs one batch from its file to its results; whatever dies on the way, the next run goes on from there."""

import time
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import structlog
from kafka.errors import KafkaError

from workers.batches.entries import refused_entry, undone_error
from workers.batches.finishing import drop_work, write_results
from workers.batches.handle import Handle
from workers.batches.ingest import Lines
from workers.batches.lines import StoppedError
from workers.batches.places import copy_to
from workers.batches.preparing import prepare
from workers.batches.ways import Step, WayBack, WayOut
from workers.batches.working import Working
from workers.errors import PoisonError, UsageError, WaitableError
from workers.messages import Record, event_headers
from workers.topics import Topics
from workers.transactions import Backoff

#: A cancelled or late batch waits so long for lines that are under way.
_GRACE_S = 4.0
_IDLE_MS = 50
#: Lines that get an error between two looks for replies.
_REFUSED_AT_ONCE = 10_000

log = structlog.get_logger(__name__)


def run_batch(handle: Handle, *, backoff: Backoff = Backoff()) -> None:  # noqa: B008  # a frozen value
    """Work on one batch until it has ended or the process is told to stop; hold its folder's lock meanwhile.

    One that is paused is left alone once its lines under way are answered: call again when it is resumed,
    cancelled or late.

    - *validating*: the file is read line by line, each line checked by itself; the good ones are embedded,
      once, and planned together.
    - *in_progress*: the next lines are decided by the plan's lambda and dispatched, in a Kafka transaction
      that also says how far the batch has come. Replies are written to the files, then to Postgres with how
      much of the files is whole. Each place says exactly where to go on after a crash.
    - *cancelling*, or past the deadline: nothing more is dispatched; what is answered within seconds is kept,
      and every other line ends in the error file.
    - *finalizing*: the files get their final names, the batch its last status.

    What is away is waited for; only what no retry can mend fails the batch.
    """
    failures = 0
    while not handle.place.stop.is_set():
        try:
            if not _go_on(handle):
                return
            failures = 0
        except StoppedError:
            continue
        except (KafkaError, WaitableError, OSError) as error:
            failures += 1
            log.warning("batch_waits", batch=handle.id, problem=f"{type(error).__name__}: {error}")
            handle.place.stop.wait(backoff.delay_s(failures))
        except (UsageError, PoisonError) as error:
            _give_up(handle, str(error))


def _go_on(handle: Handle) -> bool:
    """Do what is next; tell whether there is more to do now."""
    batch = handle.look(at_once=True)
    if batch.ended:
        drop_work(handle.folder)
        return False
    if batch.status not in {"validating", "in_progress"}:
        finish(handle)
    elif handle.is_late():
        handle.note("late")
        handle.finalize()
    elif batch.status == "in_progress":
        with closing(Working(handle)) as working:
            working.run()
            return not working.is_still()
    elif batch.paused:
        return False
    else:
        prepare(handle)
    return True


def _give_up(handle: Handle, problem: str) -> None:
    """Fail a batch, with what was answered kept; where ending it is what fails, as far as that goes."""
    handle.set(problem=problem)
    if handle.look(at_once=True).status in {"validating", "in_progress"}:
        handle.finalize()
    else:
        write_results(handle.folder, order="completion")
        handle.end("failed", problem=problem)


def finish(handle: Handle) -> None:
    """Keep what is answered, give every other line an error, and complete the files."""
    batch = handle.look(at_once=True)
    outcome = batch.outcome
    if outcome is None:
        outcome = "cancelled" if batch.status == "cancelling" else "completed"
        if batch.problem is not None:
            outcome = "failed"
        elif outcome == "completed" and not handle.folder.index.exists():
            outcome = "expired"  # before its lines were checked
        # With its final name the error file holds every line that has no answer.
        if handle.folder.index.exists() and not handle.folder.errors.exists():
            outcome = _close_lines(handle, outcome)
        handle.set(outcome=outcome)
    options = handle.options()
    write_results(handle.folder, order=options.order)
    if options.output is not None:
        _copy_out(handle, options.output)
    handle.end(outcome, problem=batch.problem)


def _copy_out(handle: Handle, target: str) -> None:
    """Copy the results to where they were asked for; a place that cannot be written is told of."""
    try:
        for kind, path in (("output", handle.folder.output), ("errors", handle.folder.errors)):
            copy_to(path, target, f"{handle.id}.{kind}.jsonl")
    except Exception as error:  # noqa: BLE001  # every object store's library has errors of its own
        handle.note("not_copied", problem=f"{type(error).__name__}: {error}", to=target)


def _close_lines(handle: Handle, outcome: str) -> str:
    """Wait a little for the lines under way, and answer all others with an error; give the last status."""
    with (
        closing(Lines(handle.folder)) as lines,
        closing(handle.open_outbox()) as outbox,
        closing(handle.open_collector(lines)) as collector,
    ):
        dispatched = outbox.position.lines
        if outcome == "completed" and (collector.undone or not collector.answered.all()):
            outcome = "expired"
        if outcome != "completed":
            collector.ended_as = outcome
        _call_off(handle, lines, outbox, collector)
        until = time.monotonic() + _GRACE_S
        _refuse_rest(handle, lines, collector, range(dispatched, len(lines)), outcome)
        while not collector.answered[:dispatched].all() and time.monotonic() < until:
            collector.collect(wait_ms=_IDLE_MS)
        _refuse_rest(handle, lines, collector, range(dispatched), outcome)
        unsettled = collector.tally.close(outbox.position.reserved_usd)
        collector.save()
        handle.note("closed", unanswered=collector.undone, unsettled_usd=float(unsettled))
        return outcome if collector.undone or outcome != "expired" else "completed"


def _refuse_rest(handle: Handle, lines: Lines, collector: WayBack, rows: range, outcome: str) -> None:
    """Answer those of some lines that have no answer with an error.

    Others may be answered meanwhile: replies are taken in between.
    """
    error = undone_error(outcome)
    for row in rows:
        if row % _REFUSED_AT_ONCE == 0:
            collector.collect(wait_ms=0)
        if not collector.answered[row]:
            entry = refused_entry(handle.id, lines.number(row), lines.custom_id(row), error)
            collector.write_undone(row, entry)


def _call_off(handle: Handle, lines: Lines, outbox: WayOut, collector: WayBack) -> None:
    """Tell the executors not to call for lines that are under way, and to give up calls that are."""
    settings, now = handle.place.settings, datetime.now(UTC)
    records = []
    for row in np.flatnonzero(~collector.answered[: outbox.position.lines]).tolist():
        prompt_id = f"{handle.id}:{lines.number(row)}"
        event = event_headers(event_id=prompt_id, event_type="uniroute.cancel", source="/batcher", now=now)
        topic = Topics(settings.topic_prefix).cancels
        records.append(Record(topic=topic, key=prompt_id.encode(), value=None, headers=event))
    if records:
        outbox.commit(records, step=Step())
