"""How batches end before their time: cancelled in any phase, or at their deadline."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from batch_benches import Bench

from workers.batches.finishing import write_results
from workers.batches.handle import Handle, Workplace
from workers.batches.lines import StoppedError
from workers.batches.preparing import prepare
from workers.batches.requests import Options
from workers.batches.running import finish, run_batch
from workers.batches.submission import cancel, keep_file, pause, submit
from workers.batches.trial import read_view
from workers.batches.working import Working
from workers.decision_ids import DecisionSigner
from workers.storage.batches import Batch, Batches
from workers.storage.engine import transaction

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

LINES = 30


@pytest.fixture
def place(bench: Bench) -> Iterator[Workplace]:
    """A batcher's workplace in this process; the bench's own batcher is away meanwhile."""
    bench.kill("batcher")
    settings = bench.installation.settings
    view = read_view(bench.installation.engine, settings)
    yield Workplace(
        engine=bench.installation.engine,
        settings=settings,
        signer=DecisionSigner({0: settings.signing_key.get_secret_value().encode()}, current=0),
        store=bench.store,
        view=lambda: view,
        embedding=threading.Lock(),
        stop=threading.Event(),
    )
    bench.serve("batcher")


def read(bench: Bench, batch_id: str) -> Batch:
    """Give the batch as it stands."""
    with transaction(bench.installation.engine) as session:
        return Batches(session).get(batch_id)


def finalizing(bench: Bench, place: Workplace) -> Handle:
    """A batch of which every line is answered, and nothing else done."""
    handle = Handle(bench.submit(LINES), place)
    prepare(handle)
    with closing(Working(handle)) as working:
        working.run()
    assert handle.look(at_once=True).status == "finalizing"
    return handle


def end(bench: Bench, handle: Handle) -> tuple[Batch, list[int], list[str]]:
    """Cancel twice, go on, and give the batch, the lines with an answer and the errors of the others."""
    begun = time.monotonic()
    for _ in range(2):
        assert cancel(bench.installation.engine, handle.id).status == "cancelling"
    with handle.folder.locked() as ours:
        assert ours
        run_batch(handle)
    batch = read(bench, handle.id)
    assert time.monotonic() - begun < 10
    output, errors = bench.entries(batch)
    assert Counter(one["line"] for one in [*output, *errors]) == Counter(range(1, batch.total + 1))
    return batch, [one["line"] for one in output], [one["error"]["code"] for one in errors]


def test_cancelling_before_any_line_is_checked(bench: Bench, place: Workplace) -> None:
    """Nothing is known of the lines: the batch is cancelled, with empty files."""
    batch, output, errors = end(bench, Handle(bench.submit(LINES), place))

    assert (batch.status, batch.total, output, errors) == ("cancelled", 0, [], [])


def test_cancelling_while_it_is_planned(bench: Bench, place: Workplace) -> None:
    """Every line is checked and none dispatched: each one ends as cancelled."""
    handle = Handle(bench.submit(LINES), place)
    prepare(handle)

    batch, output, errors = end(bench, handle)

    assert (batch.status, output, errors) == ("cancelled", [], ["batch_cancelled"] * LINES)


def test_cancelling_when_all_is_answered(bench: Bench, place: Workplace) -> None:
    """Every answer is kept, and the last status is the one that was asked for."""
    batch, output, errors = end(bench, finalizing(bench, place))

    assert (batch.status, sorted(output), errors) == ("cancelled", list(range(1, LINES + 1)), [])


def test_cancelling_when_the_files_have_their_names(bench: Bench, place: Workplace) -> None:
    """Whoever takes over after a crash finds the files complete, and leaves them so."""
    handle = finalizing(bench, place)
    handle.set(outcome="completed")
    write_results(handle.folder, order="completion")

    batch, output, errors = end(bench, handle)

    assert (batch.status, sorted(output), errors) == ("cancelled", list(range(1, LINES + 1)), [])


def test_cancelling_in_the_last_moment(bench: Bench, place: Workplace) -> None:
    """The outcome was settled as completed when somebody cancelled: that is heard all the same."""
    handle = finalizing(bench, place)
    write_results(handle.folder, order="completion")
    cancel(bench.installation.engine, handle.id)

    handle.end("completed")

    assert read(bench, handle.id).status == "cancelled"


def test_a_deadline_passes_before_the_lines_are_checked(bench: Bench, place: Workplace) -> None:
    """Nothing more is read or embedded: the batch is expired, with empty files."""
    handle = Handle(bench.submit(LINES), place)
    with transaction(bench.installation.engine) as session:
        batches = Batches(session)
        batches.set(handle.id, deadline=batches.now())

    with pytest.raises(StoppedError):
        prepare(handle)
    run_batch(handle)

    batch = read(bench, handle.id)
    assert (batch.status, batch.total, bench.entries(batch)) == ("expired", 0, ([], []))


def test_a_paused_batch_is_left_alone_until_it_is_resumed(bench: Bench, place: Workplace) -> None:
    """Whether it is checked or under way: working on it comes back at once, and goes on where it stood."""
    engine, checked, dispatched = (
        bench.installation.engine,
        Handle(bench.submit(LINES), place),
        Handle(bench.submit(LINES + 1), place),
    )
    prepare(dispatched)

    for handle in (checked, dispatched):
        pause(engine, handle.id, paused=True)
        run_batch(handle)
    stood = [read(bench, handle.id) for handle in (checked, dispatched)]
    for handle in (checked, dispatched):
        pause(engine, handle.id, paused=False)
        run_batch(handle)
    ended = [read(bench, handle.id) for handle in (checked, dispatched)]

    assert [(one.status, one.completed) for one in stood] == [("validating", 0), ("in_progress", 0)]
    assert [(one.status, one.completed) for one in ended] == [("completed", LINES), ("completed", LINES + 1)]


class DyingHandle(Handle):
    """Dies when it is to write how the batch ended."""

    def set(self, **changes: object) -> None:
        """Write other columns."""
        if "outcome" in changes:
            raise SystemExit
        super().set(**changes)


def test_expired_lines_are_known_after_a_crash(bench: Bench, place: Workplace) -> None:
    """Every line had its error, and the outcome was not written: whoever takes over says expired too."""
    batch_id = bench.submit(LINES)
    handle = Handle(batch_id, place)
    prepare(handle)
    handle.finalize()
    with pytest.raises(SystemExit):
        finish(DyingHandle(batch_id, place))

    finish(handle)

    batch = read(bench, batch_id)
    _, errors = bench.entries(batch)
    assert (batch.status, batch.failed) == ("expired", LINES)
    assert [one["error"]["code"] for one in errors] == ["batch_expired"] * LINES


def test_at_the_deadline_what_is_finished_is_kept(bench: Bench) -> None:
    """The executor goes away half-way: answered lines stay, the others end as expired."""
    batch_id = bench.submit(400)
    bench.wait(batch_id, lambda batch: batch.completed > 0)
    bench.kill("executor")
    with transaction(bench.installation.engine) as session:
        batches = Batches(session)
        batches.set(batch_id, deadline=batches.now())

    batch = bench.wait(batch_id, lambda batch: batch.ended)
    bench.serve("executor")

    output, errors = bench.entries(batch)
    assert (batch.status, len(output)) == ("expired", batch.completed)
    assert 0 < batch.completed < 400
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    assert Counter(one["line"] for one in [*output, *errors]) == Counter(range(1, 401))


class ForgetfulHandle(Handle):
    """Dies when the lines are checked, before that is written down."""

    def note(self, event: str, **facts: object) -> None:
        """Write other events."""
        if event == "validated":
            raise SystemExit
        super().note(event, **facts)


def test_lines_are_counted_whoever_checked_them(bench: Bench, place: Workplace) -> None:
    """The files were whole when the process died: the next one counts what is in them, bad lines too."""
    path = bench.write(3)
    with path.open("a") as file:
        file.write("{half\n\n")
    with path.open("rb") as source:
        kept = keep_file(
            source, filename="x", purpose="batch", engine=bench.installation.engine, store=bench.store
        )
    batch_id = submit(kept, Options(), engine=bench.installation.engine).batch.id
    with pytest.raises(SystemExit):
        prepare(ForgetfulHandle(batch_id, place))

    prepare(Handle(batch_id, place))

    batch = read(bench, batch_id)
    assert (batch.status, batch.total, batch.failed) == ("in_progress", 4, 1)
    cancel(bench.installation.engine, batch_id)
