"""Which batches one batcher works on: four, none of them paused, and beside them all that are to end."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from workers.batcher import PLACES, Batcher
from workers.batches.folders import Store
from workers.batches.handle import Handle, Workplace
from workers.batches.requests import Options
from workers.batches.submission import cancel, pause, submit
from workers.decision_ids import DecisionSigner
from workers.settings import Settings
from workers.storage.batches import Batches, BatchFile
from workers.storage.engine import make_engine, transaction

_SOON_S = 30


@dataclass(slots=True)
class Office:
    """A batcher whose work is to wait until the test ends."""

    engine: Engine
    file: BatchFile
    stop: threading.Event
    begun: queue.Queue[str] = field(default_factory=queue.Queue)

    def submit(self, *, window: timedelta = timedelta(hours=1)) -> str:
        """Hand in a batch."""
        return submit(self.file, Options(), engine=self.engine, window=window).batch.id

    def work(self, handle: Handle) -> None:
        """Stay at a batch."""
        self.begun.put(handle.id)
        self.stop.wait()

    def next(self) -> str:
        """Give the batch that is taken up next."""
        return self.begun.get(timeout=_SOON_S)


@pytest.fixture
def office(migrated_url: str, tmp_path: Path) -> Iterator[Office]:
    """A batcher at work."""
    engine, stop = make_engine(migrated_url), threading.Event()
    with transaction(engine) as session:
        file = Batches(session).add_file("file-1", filename="in.jsonl", purpose="batch", size=0, sha256="0")
    office = Office(engine, file, stop)
    place = Workplace(
        engine=engine,
        settings=Settings(),
        signer=DecisionSigner({0: b"0123456789abcdef"}, current=0),
        store=Store(tmp_path),
        view=lambda: None,
        embedding=threading.Lock(),
        stop=threading.Event(),
    )
    thread = threading.Thread(target=Batcher(place, run=office.work).run, args=(stop,))
    thread.start()
    yield office
    stop.set()
    thread.join()
    engine.dispose()


@pytest.mark.stack
def test_paused_batches_take_nobodys_place(office: Office) -> None:
    """Four work and the oldest waits; as one of the four is paused, the next is taken up in its place."""
    working = [office.submit() for _ in range(PLACES["work"])]
    begun = [office.next() for _ in working]
    waiting = office.submit()
    pause(office.engine, working[0], paused=True)

    assert begun == working
    assert office.next() == waiting


@pytest.mark.stack
def test_a_batch_that_is_to_end_waits_for_nobody(office: Office) -> None:
    """Of paused batches that wait behind four the cancelled one and the late one are taken up."""
    working = [office.submit() for _ in range(PLACES["work"])]
    begun = [office.next() for _ in working]
    waiting = [office.submit() for _ in range(3)]
    for batch_id in waiting:
        pause(office.engine, batch_id, paused=True)
    cancel(office.engine, waiting[2])
    ended = [office.next()]
    with transaction(office.engine) as session:
        batches = Batches(session)
        batches.set(waiting[1], deadline=batches.now())
    ended.append(office.next())

    assert begun == working
    assert ended == [waiting[2], waiting[1]]
