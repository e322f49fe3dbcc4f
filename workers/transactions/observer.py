"""What a loop reports while it runs, for metrics: a closed set of events, none of which carries content."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

#: Why the loop threw its clients away and joined anew.
Interruption = Literal["fenced", "rebalanced", "broker_away", "refused"]


class LoopObserver(Protocol):
    """Told of events by the loop, from the loop's thread; must be quick and never raise."""

    def consumed(self, topic: str, messages: int) -> None:
        """Messages were handed to the work."""

    def skipped(self, topic: str, messages: int) -> None:
        """Messages came again that were finished before a crash or a move; they are not processed again."""

    def committed(self, messages: int, records: int, seconds: float) -> None:
        """A transaction was committed: messages finished, records produced, time it took."""

    def dead_lettered(self, topic: str, error_class: str) -> None:
        """A message of ``topic`` ended as a dead letter in a committed transaction."""

    def held(self, topic: str) -> None:
        """A message cannot be finished because its dead-letter topic is missing; told at each new attempt."""

    def forgotten(self, messages: int) -> None:
        """Messages in flight were dropped with their partitions; whoever owns these does them again."""

    def owns(self, shares: Mapping[str, float]) -> None:
        """After a rebalance: by topic, the part of its partitions that is owned; topics not named are not."""

    def repeated(self, topic: str, messages: int) -> None:
        """Calls were begun for messages of ``topic`` for which calls had been begun before."""

    def interrupted(self, cause: Interruption) -> None:
        """The clients were thrown away; nothing in flight was committed."""


@dataclass(slots=True)
class LoopCounters:
    """The observer that counts."""

    consumed_messages: Counter[str] = field(default_factory=Counter)
    skipped_messages: Counter[str] = field(default_factory=Counter)
    #: By topic and error class.
    dead_letters: Counter[tuple[str, str]] = field(default_factory=Counter)
    held_messages: Counter[str] = field(default_factory=Counter)
    repeated_messages: Counter[str] = field(default_factory=Counter)
    interruptions: Counter[Interruption] = field(default_factory=Counter)
    shares: dict[str, float] = field(default_factory=dict)
    forgotten_messages: int = 0
    committed_messages: int = 0
    produced_records: int = 0
    transactions: int = 0
    transaction_seconds: float = 0.0

    def consumed(self, topic: str, messages: int) -> None:
        """Count by topic."""
        self.consumed_messages[topic] += messages

    def skipped(self, topic: str, messages: int) -> None:
        """Count by topic."""
        self.skipped_messages[topic] += messages

    def committed(self, messages: int, records: int, seconds: float) -> None:
        """Count and sum."""
        self.committed_messages += messages
        self.produced_records += records
        self.transactions += 1
        self.transaction_seconds += seconds

    def dead_lettered(self, topic: str, error_class: str) -> None:
        """Count by topic and class."""
        self.dead_letters[topic, error_class] += 1

    def held(self, topic: str) -> None:
        """Count by topic."""
        self.held_messages[topic] += 1

    def forgotten(self, messages: int) -> None:
        """Sum."""
        self.forgotten_messages += messages

    def owns(self, shares: Mapping[str, float]) -> None:
        """Keep the last."""
        self.shares = dict(shares)

    def repeated(self, topic: str, messages: int) -> None:
        """Count by topic."""
        self.repeated_messages[topic] += messages

    def interrupted(self, cause: Interruption) -> None:
        """Count by cause."""
        self.interruptions[cause] += 1
