"""What the loop promises when processes and the broker die, freeze, come and go, on the real broker."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from exactly_once import CommittedReader, Traffic, WorkerProcess, create_topics, make_ids, produce

from workers.local.kafka import Kafka

pytestmark = pytest.mark.stack

SCRIPT = str(Path(__file__).with_name("passthrough.py"))
#: Starts a worker in a slot, with options of ``passthrough``.
Start = Callable[..., WorkerProcess]


@pytest.fixture
def prefix(kafka_bootstrap: str) -> str:
    """A prefix of the test's own, with its topics."""
    prefix = f"{uuid.uuid4().hex[:8]}."
    create_topics(kafka_bootstrap, {f"{prefix}{name}": {} for name in ("in", "out", "dlq.in")})
    return prefix


@pytest.fixture
def start(kafka_bootstrap: str, prefix: str, tmp_path: Path) -> Iterator[Start]:
    """Start workers that end with the test."""
    with ExitStack() as stack:

        def start_worker(slot: str, **options: Any) -> WorkerProcess:
            arguments = {"bootstrap": kafka_bootstrap, "prefix": prefix, "slot": slot, **options}
            log = tmp_path / f"{slot}-{uuid.uuid4().hex[:8]}.log"
            worker = WorkerProcess([SCRIPT, json.dumps(arguments)], log=log)
            return stack.enter_context(worker)

        yield start_worker


@pytest.fixture
def output(kafka_bootstrap: str, prefix: str) -> Iterator[CommittedReader]:
    """The committed output."""
    with CommittedReader(kafka_bootstrap, [f"{prefix}out"]) as reader:
        yield reader


def seen(count: int) -> Callable[[CommittedReader], bool]:
    """Whether so many records came."""
    return lambda reader: len(reader.records) >= count


def every(ids: list[bytes]) -> Callable[[CommittedReader], bool]:
    """Whether each id came."""
    return lambda reader: len(reader.records) >= len(ids) and reader.ids.keys() >= set(ids)


def assert_exactly_once(output: CommittedReader, ids: list[bytes]) -> None:
    """Nothing lost, nothing twice, to the end of what is committed."""
    output.read_to_end()
    counts = output.ids

    assert [missing for missing in ids if missing not in counts] == []
    assert {found: count for found, count in counts.items() if count > 1} == {}


def test_killed_mid_batch(kafka_bootstrap: str, prefix: str, start: Start, output: CommittedReader) -> None:
    """SIGKILL in the middle of batches and transactions, restarted with the same id each time."""
    ids = make_ids(3_000)
    produce(kafka_bootstrap, f"{prefix}in", dict.fromkeys(ids, b"x" * 200))
    for killed_at in (200, 900, 1_700):
        worker = start("0", seconds_per_message=0.0005)
        output.read_until(seen(killed_at), timeout_s=30)
        worker.kill()
    start("0", seconds_per_message=0.0005)
    output.read_until(every(ids), timeout_s=30)

    assert_exactly_once(output, ids)


def test_frozen_past_its_session(
    kafka_bootstrap: str, prefix: str, start: Start, output: CommittedReader
) -> None:
    """A worker that sleeps while another takes over wakes up, is refused, and joins again."""
    ids = make_ids(4_000)
    produce(kafka_bootstrap, f"{prefix}in", dict.fromkeys(ids, b"x" * 200))
    sleeper = start("0", seconds_per_message=0.0005)
    output.read_until(seen(400), timeout_s=30)
    sleeper.freeze()
    output.read_to_end()
    start("1", seconds_per_message=0.0005)
    output.read_until(seen(len(output.records) + 800), timeout_s=30)
    sleeper.wake()
    output.read_until(every(ids), timeout_s=30)
    code, _ = sleeper.stop()

    assert_exactly_once(output, ids)
    assert sleeper.said("loop_rejoins") >= 1
    assert code == 0


def test_members_come_and_go_under_load(
    kafka_bootstrap: str, prefix: str, start: Start, output: CommittedReader
) -> None:
    """A second member joins, takes a share, leaves in order; twice, while the first goes on."""
    first = start("0", seconds_per_message=0.0005, session_timeout_ms=10_000)
    ends = []
    with Traffic(kafka_bootstrap, f"{prefix}in", per_second=400) as traffic:
        output.read_until(seen(100), timeout_s=30)
        for _ in range(2):
            second = start("1", seconds_per_message=0.0005, session_timeout_ms=10_000)
            output.read_until(lambda _, worker=second: worker.said("gained=[(") > 0, timeout_s=30)
            output.read_until(seen(len(output.records) + 300), timeout_s=30)
            ends.append(second.stop())
        traffic.stop()
        ids = traffic.ids
    output.read_until(every(ids), timeout_s=30)

    assert_exactly_once(output, ids)
    assert [code for code, _ in ends] == [0, 0]
    assert max(seconds for _, seconds in ends) < 10
    assert first.said("loop_rejoins") == 0


def test_broker_killed_and_restarted(kafka: Kafka, prefix: str, start: Start) -> None:
    """SIGKILL of the broker in the middle of transactions: both workers wait, and go on."""
    bootstrap = kafka.bootstrap
    ids = make_ids(4_000)
    produce(bootstrap, f"{prefix}in", dict.fromkeys(ids, b"x" * 200))
    workers = [start(slot, seconds_per_message=0.001, session_timeout_ms=6_000) for slot in "01"]
    # The reader is not there while the broker is down: it would leave sockets open that nobody closes.
    with CommittedReader(bootstrap, [f"{prefix}out"]) as output:
        output.read_until(seen(500), timeout_s=30)
    kafka.kill()
    kafka.start()
    with CommittedReader(bootstrap, [f"{prefix}out"]) as output:
        output.read_until(every(ids), timeout_s=60)
        codes = [worker.stop()[0] for worker in workers]

        assert_exactly_once(output, ids)
    assert codes == [0, 0]


def test_a_broker_that_is_not_there_is_waited_for(start: Start) -> None:
    """A worker that finds no broker tries again and again, leaves nothing behind, and stops when told."""
    worker = start("0", bootstrap="127.0.0.1:1", connect_timeout_ms=500)
    worker.wait_until_said("loop_rejoins", times=1, timeout_s=30)
    threads = worker.threads
    worker.wait_until_said("loop_rejoins", times=4, timeout_s=60)
    more_threads = worker.threads - threads
    code, seconds = worker.stop()

    assert code == 0
    assert seconds < 10
    assert more_threads <= 1  # it may just be trying


def test_finished_out_of_order_is_not_done_again(
    kafka_bootstrap: str, prefix: str, start: Start, output: CommittedReader, tmp_path: Path
) -> None:
    """With every tenth call hanging, the others are answered; after SIGKILL none of them is called again."""
    ids = make_ids(1_000)
    hanging = set(ids[::10])
    produce(kafka_bootstrap, f"{prefix}in", dict.fromkeys(ids, b"x" * 200))
    release = tmp_path / "release"
    options = {"work": "call", "hang_every": 10, "release": str(release), "seconds_per_message": 0.01}
    worker = start("0", started=str(tmp_path / "first"), **options)
    output.read_until(seen(900), timeout_s=30)
    worker.kill()
    output.read_to_end()
    before = set(output.ids)
    start("0", started=str(tmp_path / "second"), **options)
    release.touch()
    output.read_until(every(ids), timeout_s=30)
    again = set((tmp_path / "second").read_bytes().split())

    assert_exactly_once(output, ids)
    assert before == set(ids) - hanging
    assert again == hanging


def test_calls_made_again_are_known_to_the_last_one(
    kafka_bootstrap: str, prefix: str, start: Start, output: CommittedReader, tmp_path: Path
) -> None:
    """Killed twice with calls in flight, the third owner says of each how often it had been called before."""
    ids = make_ids(300)
    produce(kafka_bootstrap, f"{prefix}in", dict.fromkeys(ids, b"x" * 200))
    release = tmp_path / "release"
    options = {"work": "call", "hang_every": 3, "release": str(release)}
    lives = [tmp_path / name for name in ("first", "second", "third")]
    for life in lives[:2]:
        worker = start("0", started=str(life), **options)
        output.read_until(
            lambda reader, life=life: len(reader.ids) == 200 and calls(life) >= 100, timeout_s=30
        )
        worker.kill()
    start("0", started=str(lives[2]), **options)
    release.touch()
    output.read_until(every(ids), timeout_s=30)
    made = Counter(b"".join(life.read_bytes() for life in lives).split())
    told = {record.key: 1 + int(dict(record.headers)["earlier"]) for record in output.records}

    assert_exactly_once(output, ids)
    assert told == made
    assert Counter(made.values()) == {1: 200, 3: 100}


def calls(life: Path) -> int:
    """How many calls a worker has begun."""
    return len(life.read_bytes().split()) if life.exists() else 0
