"""What the loop drives: messages in, completions out, in any order; and the ledger that keeps count."""

import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Literal, Protocol

import structlog

from workers.errors import PoisonError
from workers.messages import Message, Record

#: Topic and number of a partition.
Partition = tuple[str, int]

Disposition = Literal["rejected", "exhausted"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a message was given up."""

    #: One word of a closed set, fit for a metric label.
    error_class: str
    sentence: str
    attempts: int
    #: No retry can mend it, or retries were used up.
    disposition: Disposition


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A message that is finished: what to produce for it, in order, or why it was given up."""

    message: Message
    records: Sequence[Record] = ()
    #: The loop makes a dead letter of the message, and produces nothing else for it.
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """A message for which something is about to be done that a crash does not undo: a call."""

    message: Message
    #: Topics that what comes of it goes to: without them it is not worth doing.
    topics: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The answer to ``Starting``."""

    message: Message
    #: A topic that does not exist: nothing may be begun.
    missing: str | None = None


class Work(Protocol):
    """Processing of messages off the loop's thread; the loop calls every method, from its own thread.

    Each message submitted leads to one completion, in any order and after any time, unless it is forgotten
    first. Nothing that processing raises comes out of these methods: failures are retried, waited out, or
    become completions with a rejection.
    """

    @property
    def in_flight(self) -> int:
        """How many messages are submitted and neither taken back as completions nor forgotten."""

    @property
    def room(self) -> int:
        """How many more messages are wanted now; more may be submitted, and wait."""

    @property
    def under_way(self) -> int:
        """How many of those in flight are worth waiting for when all comes to an end.

        What only waits, for its turn or for a better moment, is not: whoever comes next does it.
        """

    @property
    def paused(self) -> Collection[str]:
        """Topics of which no more messages are wanted now, whatever room there is."""

    def submit(self, messages: Sequence[Message], earlier: Sequence[int] = ()) -> None:
        """Take messages to process; never blocks.

        ``earlier`` says of each how often what a crash does not undo was begun for it before, in lives that
        ended before they could commit what came of it; empty where nothing was.
        """

    def starting(self) -> Sequence[Starting]:
        """Hand over what is about to begin; it does not before ``start`` has been told of it."""

    def start(self, grants: Sequence[Grant]) -> None:
        """Answer what ``starting`` gave; the log knows by now of those that are let begin."""

    def withdrawn(self) -> Sequence[Message]:
        """Hand over what was let begin and does not for now; it asks again before it does."""

    def completed(self, wait_s: float = 0.0) -> Sequence[Completion]:
        """Hand over what has completed since the last call; wait so long for the first if there is none."""

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop whatever is in flight or complete for these partitions: no completion of it will come."""

    def close(self) -> None:
        """Drop everything and let go of threads, within two seconds. Safe to call twice."""


class Ledger:
    """What is in flight and what is complete, between the loop's thread and the one that processes.

    A message is known by identity, not by offset: the result of a copy that was forgotten is dropped even
    when another copy of the same message is in flight.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._wanted: dict[int, Message] = {}
        self._complete: list[Completion] = []
        self._starting: list[Starting] = []
        # Of those that were let begin: at it, and not for now.
        self._begun: set[int] = set()
        self._withdrawn: list[Message] = []
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many messages are added and neither taken nor forgotten."""
        return len(self._wanted) + len(self._complete)

    @property
    def under_way(self) -> int:
        """How many are begun and do not rest, or are complete and not taken."""
        return len(self._begun) + len(self._complete)

    @property
    def closed(self) -> bool:
        """Whether everything was dropped for good."""
        return self._closed

    def add(self, messages: Sequence[Message]) -> None:
        """Note messages as in flight."""
        with self._changed:
            if not self._closed:
                self._wanted.update((id(message), message) for message in messages)

    def complete(self, completions: Sequence[Completion]) -> None:
        """Note results, except those of forgotten messages."""
        with self._changed:
            self._begun.difference_update(id(done.message) for done in completions)
            self._complete.extend(done for done in completions if self._wanted.pop(id(done.message), None))
            self._changed.notify_all()

    def ask(self, starting: Starting) -> None:
        """Note a message as about to start, unless it was forgotten."""
        with self._changed:
            if id(starting.message) in self._wanted:
                self._starting.append(starting)
                self._changed.notify_all()

    def take_starting(self) -> list[Starting]:
        """Hand over what is about to start."""
        with self._changed:
            taken, self._starting = self._starting, []
            return taken

    def begin(self, messages: Sequence[Message]) -> None:
        """Note messages as begun, except those that were forgotten."""
        with self._changed:
            self._begun.update(id(message) for message in messages if id(message) in self._wanted)

    def rest(self, message: Message) -> bool:
        """Note that what was begun for a message waits; false where nothing is."""
        with self._changed:
            begun = id(message) in self._begun
            self._begun.discard(id(message))
            return begun

    def withdraw(self, message: Message) -> None:
        """Note that nothing is begun for a message after all, where something was to be."""
        with self._changed:
            if id(message) in self._begun:
                self._begun.discard(id(message))
                self._withdrawn.append(message)

    def take_withdrawn(self) -> list[Message]:
        """Hand over what does not begin for now."""
        with self._changed:
            taken, self._withdrawn = self._withdrawn, []
            return taken

    def take(self, wait_s: float) -> list[Completion]:
        """Hand over what is complete; wait for the first, or for a message about to start."""
        with self._changed:
            if wait_s > 0:
                self._changed.wait_for(
                    lambda: self._complete or self._starting or self._closed, timeout=wait_s
                )
            taken, self._complete = self._complete, []
            return taken

    def still_wanted(self, messages: Sequence[Message]) -> list[Message]:
        """Leave out what was forgotten meanwhile."""
        with self._changed:
            return [message for message in messages if id(message) in self._wanted]

    def pause(self, messages: Sequence[Message], seconds: float) -> None:
        """Wait, but no longer than any of these messages is wanted."""
        with self._changed:
            self._changed.wait_for(
                lambda: not any(id(message) in self._wanted for message in messages), timeout=seconds
            )

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop what is in flight or complete for these partitions."""
        gone = frozenset(partitions)
        with self._changed:
            self._wanted = {
                key: message for key, message in self._wanted.items() if partition_of(message) not in gone
            }
            self._complete = [done for done in self._complete if partition_of(done.message) not in gone]
            self._starting = [one for one in self._starting if partition_of(one.message) not in gone]
            self._withdrawn = [one for one in self._withdrawn if partition_of(one) not in gone]
            self._begun &= self._wanted.keys()
            self._changed.notify_all()

    def close(self) -> None:
        """Drop everything; take nothing from now on."""
        with self._changed:
            self._closed = True
            self._wanted = {}
            self._complete = []
            self._starting = []
            self._withdrawn = []
            self._begun = set()
            self._changed.notify_all()


def partition_of(message: Message) -> Partition:
    """Name the partition a message came from."""
    return message.topic, message.partition


def reject(error: BaseException, *, attempts: int) -> Rejection:
    """Put into words why a message is given up.

    An error of ours is named by its type alone, because its text may quote a prompt; where it was raised is
    logged.
    """
    if isinstance(error, PoisonError):
        return Rejection(
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=attempts,
            disposition="rejected",
        )
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    log.error("handler_error", error=type(error).__name__, attempts=attempts, frames=frames[-8:])
    return Rejection(
        error_class="handler_error",
        sentence=f"processing raised {type(error).__name__} {attempts} times",
        attempts=attempts,
        disposition="exhausted",
    )
