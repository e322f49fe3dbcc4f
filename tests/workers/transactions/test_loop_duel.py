"""What becomes of two live workers with one transactional id."""

import threading
import uuid
from collections.abc import Sequence

import pytest
from exactly_once import CommittedReader, create_topics, make_id, produce

from workers.errors import UsageError
from workers.messages import Message, Record
from workers.transactions import BatchWork, LoopConfig, TransactionLoop

pytestmark = pytest.mark.stack

#: Messages after which the test is given up.
_MOST = 5_000


def test_one_of_two_workers_with_one_slot_gives_up(kafka_bootstrap: str) -> None:
    """They fence each other until one ends, saying why; the other goes on and nothing is doubled."""
    prefix = f"{uuid.uuid4().hex[:8]}."
    create_topics(kafka_bootstrap, {f"{prefix}{name}": {} for name in ("in", "out", "dlq.in")})
    config = LoopConfig(
        bootstrap=kafka_bootstrap,
        group_id=f"{prefix}duel",
        transactional_id=f"{prefix}duel.0",
        topics=(f"{prefix}in",),
        topic_prefix=prefix,
    )
    given_up = threading.Event()
    problems: list[str] = []
    stop = threading.Event()

    def copy(batch: Sequence[Message]) -> list[list[Record]]:
        return [[Record(topic=f"{prefix}out", key=one.key, value=one.value)] for one in batch]

    def work() -> None:
        try:
            TransactionLoop(config, BatchWork(copy)).run(stop)
        except UsageError as error:
            problems.append(str(error))
            given_up.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    sent = 0
    while sent < _MOST and not given_up.is_set():  # a worker learns that it is fenced when it commits
        produce(kafka_bootstrap, f"{prefix}in", {make_id(sent): b"x"})
        sent += 1
    with CommittedReader(kafka_bootstrap, [f"{prefix}out"]) as reader:
        reader.read_until(lambda one: len(one.ids) == sent, timeout_s=60)
        counts = reader.ids
    stop.set()
    for thread in threads:
        thread.join()

    assert len(problems) == 1
    assert f"{prefix}duel.0" in problems[0]
    assert "--slot" in problems[0]
    assert set(counts.values()) == {1}
