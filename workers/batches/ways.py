"""The two ways of a batch, out to the executors and back: what its work needs of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers import messages
from workers.batches.tally import Tally
from workers.messages import Message, Record

#: Lines whose costs are remembered, to hold what is predicted against.
MOST_PAID = 4_096

_calls = msgspec.json.Decoder(tuple[messages.CallFact, ...])


@dataclass(slots=True)
class Position:
    """How far dispatching has come."""

    #: Lines that were dispatched, or answered with an error, from the first good one on.
    lines: int = 0
    reserved_usd: Decimal = Decimal(0)
    #: What all of them together were expected to cost, and the largest reservation of one.
    expected_usd: float = 0.0
    largest_usd: float = 0.0

    def after(self, step: "Step") -> "Position":
        """Give where it stands after some more lines."""
        return Position(
            lines=self.lines + step.lines,
            reserved_usd=self.reserved_usd + step.reserved_usd,
            expected_usd=self.expected_usd + step.expected_usd,
            largest_usd=max(self.largest_usd, step.largest_usd),
        )

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "lines": self.lines,
            "reserved_usd": f"{self.reserved_usd:f}",
            "expected_usd": self.expected_usd,
            "largest_usd": self.largest_usd,
        }

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Self:
        """Read what ``as_dict`` gave."""
        return cls(
            lines=int(kept["lines"]),
            reserved_usd=Decimal(kept["reserved_usd"]),
            expected_usd=float(kept.get("expected_usd", 0.0)),
            largest_usd=float(kept.get("largest_usd", 0.0)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What some more lines come to."""

    #: From the next one on.
    lines: int = 0
    reserved_usd: Decimal = Decimal(0)
    expected_usd: float = 0.0
    largest_usd: float = 0.0

    def plus(self, more: "Step") -> "Step":
        """Give both together."""
        return Step(
            lines=self.lines + more.lines,
            reserved_usd=self.reserved_usd + more.reserved_usd,
            expected_usd=self.expected_usd + more.expected_usd,
            largest_usd=max(self.largest_usd, more.largest_usd),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """What calling an LLM for a line cost."""

    row: int
    llm: str
    usd: float
    #: How long its calls took together; ``None`` where the reply does not tell.
    seconds: float | None = None


class WayOut(Protocol):
    """Where dispatches go, together with how far the batch has come."""

    position: Position

    def commit(self, records: Sequence[Record], *, step: Step) -> None:
        """Produce the records of the next lines."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class WayBack(Protocol):
    """Where replies come from, and are kept."""

    tally: Tally
    #: Whether each good line is answered.
    answered: NDArray[np.bool_]
    #: Lines that got an error in place of an answer when the batch came to its end, in earlier lives too.
    undone: int
    #: The status that the batch ends with before all lines are answered, once that is known.
    ended_as: str | None
    #: How far dispatching has come, to be kept beside the replies.
    dispatched: Mapping[str, Any]
    #: The last lines that were paid for.
    paid: deque[Paid]

    @property
    def count(self) -> int:
        """How many lines are answered."""
        ...

    def collect(self, *, wait_ms: int) -> int:
        """Take what replies there are, waiting so long for the first; give how many lines they answered."""
        ...

    def write_undone(self, row: int, entry: bytes) -> None:
        """Write the entry of a line that will get no answer; ``save`` keeps it."""
        ...

    def save(self) -> None:
        """Make what was written last."""
        ...

    def close(self) -> None:
        """Let go of files and connection."""
        ...


def note_paid(paid: deque[Paid], row: int, reply: Message) -> None:
    """Remember what a line's LLM cost, where the reply tells both, and what its calls took."""
    llm, usd = reply.text_header(messages.LLM), messages.number_header(reply, messages.COST_USD)
    if llm and usd is not None:
        raw = reply.header(messages.CALLS)
        seconds = sum(call.seconds for call in _calls.decode(raw)) if raw else None
        paid.append(Paid(row=row, llm=llm, usd=usd, seconds=seconds))
