"""The exactly-once consume-process-produce loop that every role runs."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event

import structlog
from kafka import KafkaAdminClient
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    KafkaError,
    ProducerFencedError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)

from workers.errors import UsageError
from workers.transactions.backoff import Backoff
from workers.transactions.call_journal import CallJournal
from workers.transactions.config import LoopConfig
from workers.transactions.consumer import GroupConsumer
from workers.transactions.deliveries import Deliveries
from workers.transactions.destinations import ClusterTopics, Destinations
from workers.transactions.observer import Interruption, LoopCounters, LoopObserver
from workers.transactions.producer import TransactionalProducer
from workers.transactions.session import Session
from workers.transactions.work import Work

# Fenced so often within so many seconds, a worker is one of two with the same transactional id.
_DUEL_FENCINGS = 5
_DUEL_S = 60.0

log = structlog.get_logger(__name__)


class TransactionLoop:
    """Consumes, has ``work`` process, produces: each message exactly once, for readers of committed data.

    Each turn polls, submits what was fetched to ``work``, takes what it has completed since, and commits one
    Kafka transaction that holds the records of all these completions together with the offsets of their
    messages. Records and offsets become visible together or not at all. Messages complete in any order: the
    transaction commits the offset up to which all are finished and, in its metadata, which later ones are
    (``OffsetTracker``); a message that hangs holds up no other. Messages of one partition are submitted in
    order.

    What happens when

    - *this process dies* (SIGKILL): the broker drops the open transaction, when the same transactional id
      starts again or after ``transaction_timeout_ms``. What was not committed is processed again, by whoever
      gets the partition; what was finished out of order before is not.
    - *it freezes past its session*: its commit is refused by the broker, because it carries the member's
      generation; or it finds that the group took it in anew, and drops everything. Nothing of it becomes
      visible.
    - *partitions are revoked in an orderly rebalance*: what had completed before that poll is committed
      already; what is in flight for them is forgotten, and processed again by their new owner. Other
      partitions go on undisturbed. Until the membership is stable again, completions wait.
    - *a transaction fails or does not end in time*: its outcome is not asked for. Both clients are thrown
      away, everything in flight is forgotten, and new ones join, with back-off; what the broker says is
      committed is then the truth. ``kafka-python`` has states after an error from which it commits too much;
      none of its clients is used after one.
    - *the broker is away*: the same, for as long as it takes. Nothing is committed meanwhile.
    - *processing fails*: the business of ``work``, which waits for what is away, retries with a bound, then
      rejects; the loop makes a dead letter in the same transaction as all else.
    - *a record cannot be produced* (no such topic, too large): its message becomes a dead letter
      (``Deliveries``). No message stalls the others, but for one whose dead-letter topic is missing.
    - *work is slower than arrival*, or one partition's window is full: the partitions concerned are paused,
      while polling goes on and keeps the membership.
    - *stop*: nothing new is submitted, what is in flight may finish for ``stop_timeout_s`` and is committed,
      the group is left at once. In all no more than 10 s.
    - *a bug of the loop, or offsets that another program committed*: the exception leaves ``run``, and the
      process should end; nothing is lost.

    ``run`` may be called once; it closes ``work``.
    """

    def __init__(
        self,
        config: LoopConfig,
        work: Work,
        *,
        observer: LoopObserver | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008  # a frozen value
        clock: Callable[[], float] = time.monotonic,
        journal: CallJournal | None = None,
    ) -> None:
        """``journal``: the one that ``work`` notes in which calls are sent."""
        self._config = config
        self._journal = journal
        self._work = work
        self._observer = observer or LoopCounters()
        self._backoff = backoff
        self._clock = clock

    def run(self, stop: Event) -> None:
        """Block until ``stop`` is set and the loop has come to an orderly end.

        Raises ``UsageError`` where another live worker has the same transactional id: the two would fence
        each other for ever, and do everything twice.
        """
        failures = 0
        fenced_at: list[float] = []
        try:
            while not stop.is_set():
                with ExitStack() as stack:
                    session = None
                    try:
                        session = self._join(stack)
                        session.run(stop)
                    except (KafkaError, OSError) as error:
                        failures = 1 if session and session.progressed else failures + 1
                        self._note(error, failures)
                        self._judge(error, fenced_at)
                    finally:
                        if session:
                            session.forget()
                if not stop.is_set():
                    stop.wait(self._backoff.delay_s(failures))
        finally:
            self._work.close()

    def _join(self, stack: ExitStack) -> Session:
        """Build clients, the producer first: it aborts what a predecessor left open, before offsets are read.

        It also is the one whose constructor leaves nothing behind when no broker answers.
        """
        config = self._config
        producer = TransactionalProducer(config)
        stack.callback(producer.close)
        admin = KafkaAdminClient(
            bootstrap_servers=config.bootstrap.split(","),
            client_id=config.transactional_id,
            bootstrap_timeout_ms=config.connect_timeout_ms,
            request_timeout_ms=config.request_timeout_ms,
            reconnect_backoff_max_ms=config.reconnect_backoff_ms,
        )
        stack.callback(admin.close)
        consumer = GroupConsumer(config)
        stack.callback(consumer.close)
        deliveries = Deliveries(
            Destinations(ClusterTopics(admin), clock=self._clock),
            topic_prefix=config.topic_prefix,
            group=config.group_id,
            observer=self._observer,
        )
        return Session(
            config=config,
            consumer=consumer,
            producer=producer,
            deliveries=deliveries,
            work=self._work,
            observer=self._observer,
            clock=self._clock,
            journal=self._journal,
        )

    def _judge(self, error: Exception, fenced_at: list[float]) -> None:
        """Give up after being fenced again and again, which no restart of another explains."""
        now = self._clock()
        fenced_at[:] = [time for time in fenced_at if now - time < _DUEL_S]
        if _classify(error) == "fenced":
            fenced_at.append(now)
        if len(fenced_at) >= _DUEL_FENCINGS:
            raise UsageError(
                f"another live worker uses the transactional id {self._config.transactional_id}: give each "
                "process of a role a slot of its own (uniroute serve --slot, UNIROUTE_WORKER_SLOT)"
            ) from error

    def _note(self, error: Exception, failures: int) -> None:
        cause = _classify(error)
        self._observer.interrupted(cause)
        log.warning(
            "loop_rejoins",
            group=self._config.group_id,
            transactional_id=self._config.transactional_id,
            cause=cause,
            error=str(error),
            failures=failures,
        )


def _classify(error: Exception) -> Interruption:
    if isinstance(error, ProducerFencedError | InvalidProducerEpochError):
        return "fenced"
    if isinstance(
        error, CommitFailedError | IllegalGenerationError | UnknownMemberIdError | RebalanceInProgressError
    ):
        return "rebalanced"
    if isinstance(error, RetriableError | OSError):
        return "broker_away"
    return "refused"
