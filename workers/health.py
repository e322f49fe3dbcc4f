"""Which LLMs' endpoints are failing: executors tell on a topic, routers follow it and choose others.

Kafka carries it, not Postgres: it must work while Postgres is away, and without it no prompt moves anyway.
"""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Literal, Self

import msgspec
import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from workers.messages import Message, encode
from workers.settings import Settings
from workers.topics import Topics

EndpointState = Literal["closed", "open", "half_open"]

#: An executor says again so often that an endpoint is failing, and is believed for so long.
REPEAT_S = 10.0
BELIEVED_S = 35.0
_JOIN_S = 3.0
_SEND_S = 5.0

log = structlog.get_logger(__name__)


class HealthRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A value on the health topic; its key is ``LLM/EXECUTOR``."""

    llm: str
    executor: str
    #: Of the breaker: ``closed``, ``open`` or ``half_open``.
    state: EndpointState
    #: The class of the error that opened it.
    cause: str = ""


class HealthBoard:
    """What executors say of endpoints, as of now; ``read`` is told from the follower's thread.

    An LLM is failing while one executor at least says that its breaker is open, and has said so lately: the
    word of an executor that died expires. Half-open counts as working, so that somebody sends it the prompt
    that finds out.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._open: dict[tuple[str, str], float] = {}

    def read(self, message: Message) -> None:
        """Take over a message of the health topic."""
        if not message.value:
            return
        told = msgspec.json.decode(message.value, type=HealthRecord)
        if told.state == "open":
            self._open[told.llm, told.executor] = message.timestamp_ms / 1000
        else:
            self._open.pop((told.llm, told.executor), None)

    def failing(self) -> frozenset[str]:
        """Give the LLMs that no prompt should be sent to now."""
        since = self._clock() - BELIEVED_S
        return frozenset(llm for (llm, _), at in tuple(self._open.items()) if at >= since)


class HealthReporter:
    """Tells the health topic of each change of a breaker, and again while it is open, on its own thread.

    What cannot be sent, because the broker is away, is dropped: the next change or repetition says it anew.
    """

    def __init__(self, settings: Settings, *, repeat_s: float = REPEAT_S) -> None:
        self._settings = settings
        self._topic = Topics(settings.topic_prefix).health
        self._repeat_s = repeat_s
        self._queue: SimpleQueue[HealthRecord | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="health-reporter", daemon=True)

    def report(self, llm: str, state: EndpointState, cause: str) -> None:
        """Note a change; never blocks."""
        log.warning("endpoint_health", llm=llm, state=state, cause=cause)
        self._queue.put(HealthRecord(llm=llm, executor=self._settings.worker_slot, state=state, cause=cause))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        producer: KafkaProducer | None = None
        standing: dict[str, HealthRecord] = {}
        while True:
            try:
                told = [self._queue.get(timeout=self._repeat_s if standing else None)]
            except Empty:
                told = list(standing.values())
            for record in told:
                if record is None:
                    if producer is not None:
                        producer.close(timeout=_JOIN_S)
                    return
                standing[record.llm] = record
                if record.state == "closed":
                    del standing[record.llm]
                producer = self._send(producer, record)

    def _send(self, producer: KafkaProducer | None, record: HealthRecord) -> KafkaProducer | None:
        try:
            producer = producer or KafkaProducer(
                bootstrap_servers=self._settings.kafka_bootstrap.split(","),
                max_block_ms=_SEND_S * 1000,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
            key = f"{record.llm}/{record.executor}".encode()
            producer.send(self._topic, key=key, value=encode(record)).get(_SEND_S)
        except (KafkaError, OSError) as error:
            log.warning("health_not_told", llm=record.llm, error=type(error).__name__)
        return producer
