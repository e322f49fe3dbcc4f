"""What came of the lines of a batch that are answered, summed up."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from workers import messages
from workers.batches.purse import as_amount
from workers.messages import SCORER, CallFact, LostCalls, Message
from workers.storage.batches import Batch

_AMOUNTS = (messages.COST_USD, messages.UNSETTLED_USD, messages.RESERVED_USD, messages.PREDICTED_COST_USD)


@dataclass(slots=True)
class Tally:
    """What was collected; the columns of the batch that bear these names."""

    completed: int
    failed: int
    repeated_calls: int
    duplicated: int
    spent_usd: Decimal
    unsettled_usd: Decimal
    settled_usd: Decimal
    largest_overrun_usd: Decimal
    predicted_usd: Decimal
    llms: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch) -> "Tally":
        """Take over what is kept of a batch."""
        values = {name: getattr(batch, name) for name in cls.__slots__ if name != "llms"}
        return cls(**values, llms={name: dict(share) for name, share in batch.llms.items()})

    def as_columns(self) -> dict[str, Any]:
        """Give the columns."""
        return {name: getattr(self, name) for name in self.__slots__}

    def add_money(self, reply: Message, *, again: bool) -> None:
        """Count a reply's cost; ``again`` where its line was answered before: it settles nothing then."""
        cost, unsettled, reserved, predicted = (
            as_amount(messages.number_header(reply, header) or 0.0) for header in _AMOUNTS
        )
        repeated, llm = count_repeated(reply), reply.text_header(messages.LLM)
        self.spent_usd += cost
        self.unsettled_usd += unsettled
        self.repeated_calls += repeated
        if again:
            return
        self.settled_usd += reserved
        self.predicted_usd += predicted
        self.largest_overrun_usd = max(self.largest_overrun_usd, cost + unsettled - reserved)
        if llm:
            share = self.llms.setdefault(llm, {"lines": 0, "usd": 0.0})
            share["lines"] += 1
            share["usd"] += float(cost)

    def close(self, reserved_usd: Decimal) -> Decimal:
        """Take what is reserved for lines that got no answer to be spent, and give it: nobody will tell.

        ``reserved_usd`` is what was reserved since the batch began.
        """
        open_usd = reserved_usd - self.settled_usd
        self.unsettled_usd += open_usd
        self.settled_usd = reserved_usd
        return open_usd


def count_repeated(reply: Message) -> int:
    """Count the calls for a line that were made again after a crash, as the LLMs saw it.

    What was begun at an LLM before a crash was repeated by the calls there after it; where there was none,
    because the line's money had no room for it, another LLM stood in or the batch had ended, the last of
    those before repeated the others. Raises ``PoisonError`` of class ``bad_header``.
    """
    before = int(messages.number_header(reply, messages.REPEATED_CALLS) or 0)
    lost: Counter[str] = Counter()
    for one in messages.json_header(reply, messages.LOST_CALLS, tuple[LostCalls, ...]) or ():
        lost[one.llm] += one.count
    if not lost:  # an executor of an earlier version told their number alone
        called = messages.number_header(reply, messages.ATTEMPT)
        return max(0, before - 1) if called == 0 else before
    calls = messages.json_header(reply, messages.CALLS, tuple[CallFact, ...]) or ()
    called_now = {call.llm for call in calls}
    # A scorer's call may be the first of its prompt: of those before nobody knows whose they were.
    return sum(count - (called_now.isdisjoint({llm, SCORER})) for llm, count in lost.items())
