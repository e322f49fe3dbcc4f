"""A batch's budget: what is spent, what is reserved for lines under way, and what is left."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

#: Sums are exact: every amount is a whole multiple of it.
_GRAIN = Decimal("1e-12")
#: What a call hardly exceeds is reserved for it, and no less than so many times what it is expected to cost:
#: before answers were seen nothing is known of their spread.
_LEAST_FACTOR = 2.0
#: So many times the largest reservation is held back for a line that costs beyond its own: with the
#: reservation itself that is four times what one call in twenty exceeds.
_TAIL = 3.0
#: So many times the largest overrun seen is held back, where that is more; with fewer lines under way, once
#: for each.
_MOST_OVERRUNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """The money of a batch at one moment.

    ``spent + reserved for lines under way + held back`` stays within the budget with every line that is
    dispatched. Lines settle at what they cost. No call's cost is certain before; what one costs beyond its
    reservation comes out of what the others leave of theirs, and out of what is held back.
    """

    budget_usd: Decimal | None
    spent_usd: Decimal
    #: Reserved since the batch began, and of that what belonged to lines that are answered.
    reserved_usd: Decimal
    settled_usd: Decimal
    largest_overrun_usd: Decimal
    #: Lines that are not answered yet, and what they are expected to cost.
    lines_under_way: int = 0
    expected_under_way_usd: float = 0.0
    #: The largest reservation of one line so far.
    largest_usd: float = 0.0

    @property
    def under_way_usd(self) -> Decimal:
        """Reserved for lines that are not answered yet."""
        return self.reserved_usd - self.settled_usd

    @property
    def held_usd(self) -> Decimal:
        """Held back for what lines under way will cost beyond their reservations."""
        largest = np.array([self.largest_usd if self.lines_under_way else 0.0])
        return as_amount(float(self._held(largest, np.array([self.lines_under_way]))[0]))

    @property
    def left_usd(self) -> Decimal | None:
        """What may still be reserved, and held back for it; ``None``: any amount."""
        if self.budget_usd is None:
            return None
        return max(Decimal(0), self.budget_usd - self.spent_usd - self.under_way_usd - self.held_usd)

    def count_paid(self, reservations: Matrix, *, keep_usd: Matrix) -> int:
        """Give how many lines, from the first, may be reserved so much for; shape (n,) both.

        ``keep_usd`` stays untouched by the line and those before it. A line for which nothing is to be
        reserved stands in nobody's way.
        """
        if self.budget_usd is None:
            return len(reservations)
        free = float(self.budget_usd - self.spent_usd - self.under_way_usd) - keep_usd
        largest = np.maximum.accumulate(reservations)
        if self.lines_under_way:
            largest = np.maximum(largest, self.largest_usd)
        under_way = self.lines_under_way + np.arange(len(reservations))
        # Exact amounts are rounded up, by less than a grain each.
        needed = np.cumsum(reservations) + float(_GRAIN) * (1 + np.arange(len(reservations)))
        unpaid = (needed + self._held(largest, under_way) > free) & (reservations > 0)
        return int(np.argmax(unpaid)) if unpaid.any() else len(reservations)

    def most_usd(self, *, keep_usd: float = 0.0) -> float:
        """Give the most that may be reserved for a line while none is under way; ``inf`` without a budget."""
        if self.left_usd is None:
            return np.inf
        free = float(self.left_usd) - keep_usd
        return max(0.0, free / (1 + _TAIL) - 2 * float(_GRAIN))

    @property
    def _overrun(self) -> float:
        return max(0.0, float(self.largest_overrun_usd))

    def _held(self, largest: Matrix, under_way: NDArray[np.int64]) -> Matrix:
        held: Matrix = np.maximum(_TAIL * largest, np.minimum(_MOST_OVERRUNS, under_way) * self._overrun)
        return held


def reservations(expected: Matrix, ceilings: Matrix, *, correction: float = 1.0) -> Matrix:
    """Give what is reserved for calls, by what each is expected to cost and what it hardly exceeds.

    ``correction`` is by how much calls were dearer than expected so far, as a factor; one below 1 counts
    for nothing.
    """
    wanted: Matrix = np.maximum(ceilings, _LEAST_FACTOR * expected) * max(1.0, correction)
    return wanted


def as_amount(usd: float) -> Decimal:
    """Give USD as an exact amount, rounded up; an amount written out and read again stays what it was."""
    return Decimal(repr(usd)).quantize(_GRAIN, ROUND_CEILING)
