"""An executor that finds an endpoint failing tells every router, over the real Kafka."""

import time
import uuid
from collections.abc import Callable

import pytest
from exactly_once import create_topics

from workers.health import BELIEVED_S, HealthBoard, HealthRecord, HealthReporter
from workers.messages import Message, encode
from workers.settings import Settings
from workers.topics import Topics
from workers.transactions.follower import TopicFollower


def told(llm: str, executor: str, state: str, *, at_s: float) -> Message:
    """A message of the health topic."""
    record = HealthRecord(llm=llm, executor=executor, state=state)  # type: ignore[arg-type]
    return Message(
        topic="uniroute.health",
        partition=0,
        offset=0,
        timestamp_ms=int(1_000 * at_s),
        key=f"{llm}/{executor}".encode(),
        value=encode(record),
    )


def test_an_llm_fails_while_one_executor_says_so() -> None:
    """Two say so; it is fine when both have said otherwise, half-open included."""
    board = HealthBoard(clock=lambda: 100.0)
    for executor in ("0", "1"):
        board.read(told("a", executor, "open", at_s=99.0))
    board.read(told("a", "0", "closed", at_s=99.5))
    before = board.failing()
    board.read(told("a", "1", "half_open", at_s=99.6))

    assert before == {"a"}
    assert board.failing() == frozenset()


def test_the_word_of_a_dead_executor_expires() -> None:
    """What is not said again is believed for a while and no longer."""
    now = [100.0]
    board = HealthBoard(clock=lambda: now[0])
    board.read(told("a", "0", "open", at_s=100.0))
    before = board.failing()
    now[0] += BELIEVED_S + 0.1

    assert (before, board.failing()) == ({"a"}, frozenset())


@pytest.mark.stack
def test_routers_know_within_two_seconds(kafka_bootstrap: str) -> None:
    """From the report to the router's board, and back; and a router that starts later knows too."""
    settings = Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=f"{uuid.uuid4().hex[:8]}.")
    topic = Topics(settings.topic_prefix).health
    create_topics(kafka_bootstrap, {topic: {}}, partitions=1)
    board, later = HealthBoard(), HealthBoard()
    with (
        TopicFollower(kafka_bootstrap, topic, since_s=60.0, on_message=board.read) as follower,
        HealthReporter(settings, repeat_s=0.5) as reporter,
    ):
        assert follower.caught_up.wait(30)
        reporter.report("b", "open", "server")  # the first opens the connection
        wait_until(lambda: board.failing() == {"b"})
        began = time.monotonic()
        reporter.report("a", "open", "server")
        wait_until(lambda: "a" in board.failing())
        seconds = time.monotonic() - began
        with TopicFollower(kafka_bootstrap, topic, since_s=60.0, on_message=later.read):
            wait_until(lambda: later.failing() == {"a", "b"})
        reporter.report("a", "closed", "server")
        wait_until(lambda: board.failing() == {"b"})

    assert seconds < 2.0


def wait_until(reached: Callable[[], bool]) -> None:
    """Look again and again, for half a minute at most."""
    deadline = time.monotonic() + 30.0
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError("it was not reached")
        time.sleep(0.01)
