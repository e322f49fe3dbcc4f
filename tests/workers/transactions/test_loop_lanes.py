"""Two members on the real broker: the lanes of an LLM stay together when partitions move."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from exactly_once import CommittedReader, create_topics, make_ids, produce

from workers.messages import Message, Record
from workers.topics import Topics
from workers.transactions import CallWork, LoopConfig, LoopCounters, Start, TransactionLoop

pytestmark = pytest.mark.stack


class Shares(LoopCounters):
    """Tells when the shares are as wanted."""

    def __init__(self, wanted: Callable[[Mapping[str, float]], bool]) -> None:
        super().__init__()
        self._wanted = wanted
        self.reached = threading.Event()

    def owns(self, shares: Mapping[str, float]) -> None:
        """Look at each change."""
        super().owns(shares)
        if self._wanted(self.shares):
            self.reached.set()


@contextmanager
def member(config: LoopConfig, slot: str, observer: LoopCounters) -> Iterator[None]:
    """One executor that copies."""

    async def handle(message: Message, start: Start) -> Sequence[Record]:
        await start(f"{config.topic_prefix}out")
        return [Record(topic=f"{config.topic_prefix}out", key=message.key, value=message.value)]

    stop = threading.Event()
    named = {**{name: getattr(config, name) for name in config.__slots__}, "transactional_id": slot}
    loop = TransactionLoop(LoopConfig(**named), CallWork(handle, max_in_flight=100), observer=observer)
    thread = threading.Thread(target=loop.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def test_lanes_move_together(kafka_bootstrap: str) -> None:
    """The second member gets half of every lane, and each message is answered once."""
    topics = Topics(f"{uuid.uuid4().hex[:8]}.")
    lanes = [topics.dispatch("a", lane) for lane in ("interactive", "batch", "probe")]
    letters = topics.dead_letters(lanes[0])
    create_topics(kafka_bootstrap, {name: {} for name in (*lanes, letters, f"{topics.prefix}out")})
    config = LoopConfig(
        bootstrap=kafka_bootstrap,
        group_id=f"{topics.prefix}executor",
        transactional_id="unused",
        pattern=topics.dispatch_pattern,
        topic_prefix=topics.prefix,
        session_timeout_ms=6_000,
        metadata_max_age_ms=1_000,
        leader_of=topics.leading_lane,
    )
    all_of_it = Shares(lambda shares: shares == dict.fromkeys(lanes, 1.0))
    half = Shares(lambda shares: shares == dict.fromkeys(lanes, 0.5))
    ids = make_ids(300)
    with member(config, f"{topics.prefix}one", all_of_it):
        assert all_of_it.reached.wait(30)
        for lane, part in zip(lanes, (ids[:100], ids[100:200], ids[200:]), strict=True):
            produce(kafka_bootstrap, lane, dict.fromkeys(part, b"x"))
        with member(config, f"{topics.prefix}two", half):
            assert half.reached.wait(60)
            with CommittedReader(kafka_bootstrap, [f"{topics.prefix}out"]) as output:
                output.read_until(lambda reader: len(reader.ids) == len(ids), timeout_s=60)
                output.read_to_end()

    assert all_of_it.shares in ({}, dict.fromkeys(lanes, 0.5), dict.fromkeys(lanes, 1.0))
    assert set(output.ids.values()) == {1}
