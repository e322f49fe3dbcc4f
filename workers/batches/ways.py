"""The two ways of a batch, out to the executors and back: what its work needs of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.batches.tally import Tally
from workers.messages import Record


@dataclass(slots=True)
class Position:
    """How far dispatching has come."""

    #: Lines that were dispatched, or answered with an error, from the first good one on.
    lines: int = 0
    reserved_usd: Decimal = Decimal(0)

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {"lines": self.lines, "reserved_usd": f"{self.reserved_usd:f}"}


class WayOut(Protocol):
    """Where dispatches go, together with how far the batch has come."""

    position: Position

    def commit(self, records: Sequence[Record], *, lines: int, reserved_usd: Decimal) -> None:
        """Produce the records of the next ``lines`` lines."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class WayBack(Protocol):
    """Where replies come from, and are kept."""

    tally: Tally
    #: Whether each good line is answered.
    answered: NDArray[np.bool_]
    #: How far dispatching has come, to be kept beside the replies.
    dispatched: Mapping[str, Any]

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
