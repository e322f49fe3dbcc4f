"""A batch's budget: what is spent, what is reserved for lines under way, and what is left."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

#: Sums are exact: every amount is a whole multiple of it.
_GRAIN = Decimal("1e-12")
#: A line is reserved so many times what it is expected to cost.
RESERVE_FACTOR = 2.0
#: So many times the largest overrun seen is held back for lines that will cost more than was reserved; with
#: few lines under way, once for each and for the next one.
_MOST_OVERRUNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """The money of a batch at one moment.

    ``spent + reserved for lines under way + held back`` stays within the budget with every line that is
    dispatched. Lines settle at what they cost; one line's cost is not known before, so what lines cost beyond
    their reservations comes out of what is held back.
    """

    budget_usd: Decimal | None
    spent_usd: Decimal
    #: Reserved since the batch began, and of that what belonged to lines that are answered.
    reserved_usd: Decimal
    settled_usd: Decimal
    largest_overrun_usd: Decimal
    #: Lines that are not answered yet.
    lines_under_way: int = 0

    @property
    def under_way_usd(self) -> Decimal:
        """Reserved for lines that are not answered yet."""
        return self.reserved_usd - self.settled_usd

    @property
    def held_usd(self) -> Decimal:
        """Held back for what lines under way will cost beyond their reservations."""
        overruns = min(_MOST_OVERRUNS, 1 + self.lines_under_way)
        return overruns * max(Decimal(0), self.largest_overrun_usd)

    @property
    def expected_under_way_usd(self) -> float:
        """What lines under way are expected to cost."""
        return float(self.under_way_usd) / RESERVE_FACTOR

    @property
    def left_usd(self) -> Decimal | None:
        """What may still be reserved; ``None``: any amount."""
        if self.budget_usd is None:
            return None
        return max(Decimal(0), self.budget_usd - self.spent_usd - self.under_way_usd - self.held_usd)


def reservation(expected_usd: float) -> Decimal:
    """Give what is reserved for a line that is expected to cost so much."""
    return as_amount(RESERVE_FACTOR * expected_usd)


def as_amount(usd: float) -> Decimal:
    """Give USD as an exact amount, rounded up; an amount written out and read again stays what it was."""
    return Decimal(repr(usd)).quantize(_GRAIN, ROUND_CEILING)
