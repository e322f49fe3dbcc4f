"""What a loop does with one pair of clients, from joining the group to the first error or the stop."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from threading import Event

import structlog

from workers.messages import Message
from workers.transactions.assignment import Assignment
from workers.transactions.call_journal import CallJournal
from workers.transactions.config import LoopConfig
from workers.transactions.consumer import GroupConsumer, Rebalance
from workers.transactions.deliveries import Deliveries, Delivery
from workers.transactions.observer import LoopObserver
from workers.transactions.producer import TransactionalProducer
from workers.transactions.work import Completion, Grant, Starting, Work, partition_of

# With nothing in flight a turn waits for messages, and looks at the stop signal so often.
_IDLE_POLL_MS = 100
# With something in flight it waits for completions, and looks for new messages so often.
_BUSY_WAIT_S = 0.01
# A transaction of more bytes might not end in time, and the next attempt no sooner.
_COMMIT_BYTES = 16 * 1024 * 1024
# How often completions are tried again whose dead-letter topic is missing.
_STRANDED_S = 5.0

log = structlog.get_logger(__name__)


class Session:
    """Turns the loop until an error ends it; ``TransactionLoop`` says what that means."""

    def __init__(
        self,
        *,
        config: LoopConfig,
        consumer: GroupConsumer,
        producer: TransactionalProducer,
        deliveries: Deliveries,
        work: Work,
        observer: LoopObserver,
        clock: Callable[[], float],
        journal: CallJournal | None = None,
    ) -> None:
        self._config = config
        self._consumer = consumer
        self._producer = producer
        self._deliveries = deliveries
        self._work = work
        self._observer = observer
        self._clock = clock
        self._journal = journal
        self._assignment = Assignment()
        # Complete, but the membership was not stable when they came.
        self._held: list[Completion] = []
        # About to make their calls, but the membership was not stable when they came.
        self._starting: list[Starting] = []
        # Let begin, and not begun for now: the log does not know yet.
        self._withdrawn: list[Message] = []
        # Complete, but to become dead letters of which the topic is missing.
        self._stranded: list[Completion] = []
        self._stranded_until = 0.0
        self._stop_at: float | None = None
        #: Whether anything was committed.
        self.progressed = False

    def run(self, stop: Event) -> None:
        """Turn until ``stop`` is set, then let what is in flight finish. Raises ``KafkaError``."""
        while not stop.is_set():
            self._turn()
        self._stop_at = self._clock() + self._config.stop_timeout_s
        while (self._work.under_way or self._held) and self._clock() < self._stop_at:
            self._consumer.hold(self._assignment.partitions)
            rebalances, _ = self._consumer.poll(0)
            self._apply(rebalances)
            self._commit(self._work.completed(_BUSY_WAIT_S))
        self._note_withdrawn()
        if self._withdrawn:
            self._commit(())

    def forget(self) -> None:
        """Drop everything that is in flight."""
        if self._assignment.partitions:
            self._apply([Rebalance(lost=self._assignment.partitions)])

    def _turn(self) -> None:
        busy = self._work.in_flight or self._held
        rebalances, fetched = self._consumer.poll(0 if busy else _IDLE_POLL_MS)
        self._apply(rebalances)
        for partition, messages in fetched.items():
            self._assignment.receive(partition, messages)
        self._submit()
        busy = self._work.in_flight or self._held
        self._commit(self._work.completed(_BUSY_WAIT_S if busy else 0.0))

    def _apply(self, rebalances: Sequence[Rebalance]) -> None:
        for rebalance in rebalances:
            in_flight = self._work.in_flight
            self._work.forget(rebalance.lost)
            self._assignment.revoke(rebalance.lost)
            self._starting = [
                one for one in self._starting if partition_of(one.message) not in rebalance.lost
            ]
            self._assignment.assign(rebalance.gained)
            self._observer.forgotten(in_flight - self._work.in_flight)
            self._observer.owns(self._shares())
            log.info("rebalanced", gained=sorted(rebalance.gained), lost=sorted(rebalance.lost))

    def _shares(self) -> Mapping[str, float]:
        """Give, by topic, the part of its partitions that is owned."""
        owned = Counter(topic for topic, _ in self._assignment.partitions)
        return {topic: count / self._consumer.partition_count(topic) for topic, count in owned.items()}

    def _submit(self) -> None:
        for partition in self._assignment.unresumed:
            tracker = self._consumer.tracker(partition)
            if tracker is None:
                break  # the coordinator is slow to answer: no use in waiting for it again in this turn
            if self._journal is not None:
                for offset in self._journal.unsent(
                    partition, position=tracker.position, counts=tracker.calls
                ):
                    tracker.discount_call(offset)
            self._assignment.resume(partition, tracker)
        messages = self._assignment.take(
            self._work.room,
            per_topic=self._config.max_in_flight_per_topic,
            paused=frozenset(self._work.paused),
        )
        if messages:
            self._work.submit(messages, self._assignment.count_calls(messages))
            for topic, count in Counter(message.topic for message in messages).items():
                self._observer.consumed(topic, count)
        for topic, count in self._assignment.take_skipped().items():
            self._observer.skipped(topic, count)
        blocked = self._assignment.backlogged if self._work.room else self._assignment.partitions
        self._consumer.hold(blocked)

    def _commit(self, completions: Sequence[Completion]) -> None:
        """Commit what is complete, in one transaction; hold on to what cannot be committed yet.

        The same transaction says which calls are about to be made, and only then are they: whoever takes over
        after a crash knows of each call that may have been paid. Where nothing is complete it has a
        transaction of its own, so a wave of messages costs one more at most. Calls that were begun and not
        made are taken back with the next transaction there is, and with one of their own at the end.
        """
        waiting = [*self._take_stranded(), *self._held, *completions]
        # A message may have been forgotten since, or have come and completed twice.
        ready = {
            (done.message.topic, done.message.partition, done.message.offset): done
            for done in waiting
            if self._assignment.is_in_flight(done.message)
        }
        # In this order: one that is taken back and asks again meanwhile is begun in the next transaction.
        starting = self._take_starting()
        self._note_withdrawn()
        self._held = []
        ending = self._stop_at is not None and bool(self._withdrawn)
        if not ready and not starting and not ending:
            return
        # Taken after the rebalances of this turn were applied, so it vouches for what is still owned.
        membership = self._consumer.membership()
        if membership is None:
            self._held, self._starting = list(ready.values()), starting
            return
        now, self._held = _split(list(ready.values()))
        deliveries, stranded = self._deliveries.settle(now)
        self._stranded += stranded
        if not deliveries and not starting and not ending:
            return
        started = self._clock()
        begun = [one.message for one in starting]
        earlier = self._begin_calls(begun)
        offsets = self._assignment.finish(
            [delivery.message for delivery in deliveries],
            called=[*begun, *self._still_in_flight(self._withdrawn)],
        )
        self._withdrawn = []
        records = [record for delivery in deliveries for record in delivery.records]
        self._producer.commit(records, offsets, membership, timeout_s=self._patience_s())
        self.progressed = True
        self._work.start([Grant(message=message) for message in begun])
        if self._journal is not None:
            self._journal.finished(delivery.message for delivery in deliveries)
        again = Counter(message.topic for message, count in zip(begun, earlier, strict=True) if count)
        for topic, count in again.items():
            self._observer.repeated(topic, count)
        self._observer.committed(len(deliveries), len(records), self._clock() - started)
        self._report_dead_letters(deliveries)

    def _take_starting(self) -> list[Starting]:
        """Give what is about to make its calls; nothing once all comes to an end.

        What would call for an answer that no topic takes is refused at once.
        """
        starting = [*self._starting, *self._work.starting()]
        self._starting = []
        if self._stop_at is not None:
            return []
        wanted = [one for one in starting if self._assignment.is_in_flight(one.message)]
        missing = self._deliveries.missing({topic for one in wanted for topic in one.topics})
        refused = [
            Grant(message=one.message, missing=topic)
            for one in wanted
            for topic in one.topics
            if topic in missing
        ]
        self._work.start(refused)
        return [one for one in wanted if missing.isdisjoint(one.topics)]

    def _note_withdrawn(self) -> None:
        """Take back calls that were begun and not made: nobody is to count them as made."""
        withdrawn = self._still_in_flight(self._work.withdrawn())
        self._assignment.withdraw_calls(withdrawn)
        self._withdrawn += withdrawn

    def _still_in_flight(self, messages: Sequence[Message]) -> list[Message]:
        return [message for message in messages if self._assignment.is_in_flight(message)]

    def _begin_calls(self, messages: Sequence[Message]) -> Sequence[int]:
        """Note calls as begun, and give how often each was before."""
        counts = self._assignment.begin_calls(messages)
        if self._journal is not None and messages:
            self._journal.asking(
                (message, count + 1) for message, count in zip(messages, counts, strict=True)
            )
        return counts

    def _take_stranded(self) -> list[Completion]:
        """Give, now and then, the completions that wait for a dead-letter topic to be created."""
        if not self._stranded or self._clock() < self._stranded_until:
            return []
        self._stranded_until = self._clock() + _STRANDED_S
        taken, self._stranded = self._stranded, []
        return taken

    def _patience_s(self) -> float:
        patience_s = self._config.commit_timeout_ms / 1000
        return (
            patience_s if self._stop_at is None else min(patience_s, max(0.5, self._stop_at - self._clock()))
        )

    def _report_dead_letters(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.error_class is not None:
                message = delivery.message
                self._observer.dead_lettered(message.topic, delivery.error_class)
                log.warning(
                    "dead_letter",
                    error_class=delivery.error_class,
                    topic=message.topic,
                    partition=message.partition,
                    offset=message.offset,
                )


def _split(completions: Sequence[Completion]) -> tuple[Sequence[Completion], list[Completion]]:
    """Divide into what one transaction can carry, at least one completion, and the rest."""
    total = 0
    for index, completion in enumerate(completions):
        total += sum(len(record.value or b"") for record in completion.records)
        if total > _COMMIT_BYTES and index:
            return completions[:index], list(completions[index:])
    return completions, []
