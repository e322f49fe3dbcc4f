"""A budget spent over recorded traffic by what paces it in a router, with calls in flight and true costs."""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from routing.policies import Candidates, LoggedDraws
from workers.policies import Budget
from workers.router.banks import Books
from workers.router.pacing import Pacers, Reserved

#: Traffic comes evenly within an hour, and each call takes so long.
_BEGIN, _PERIOD_S, _CALL_S = datetime(2030, 1, 1, tzinfo=UTC), 3_600.0, 5.0
_NAME = "budget"
_NO_DRAWS = LoggedDraws(np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """Choices under a budget."""

    #: (n,): columns, -1 where nothing fitted into what was left.
    llms: NDArray[np.int64]
    #: USD that all calls came to.
    spent_usd: float
    #: Whether the budget was in the way: lambda was above 0 for most of the prompts.
    constrained: bool


def pace(candidates: Candidates, paid: NDArray[np.float64], *, budget_usd: float) -> Paced:
    """Route n prompts in their order, one by one, as a router would; calls come to (n, H) ``paid`` USD.

    The n come evenly within the hour that the budget is for. A call takes five seconds: so long what it
    hardly exceeds (``candidates.ceilings``) is reserved for it, and then its true cost is known.
    """
    n = len(paid)
    seconds = 0.0
    books = Books(clock=lambda: seconds)
    pacers = Pacers(books, clock=lambda: seconds)
    budget = Budget(usd=budget_usd, period_s=_PERIOD_S)
    llms = np.full(n, -1, dtype=np.int64)
    in_flight: deque[tuple[float, Reserved, float]] = deque()
    spent, pressed = 0.0, 0
    for row in range(n):
        seconds = row * _PERIOD_S / n
        while in_flight and in_flight[0][0] <= seconds:
            _, settled, cost = in_flight.popleft()
            books.settle(settled, cost)
        batch = pacers.start(_NAME, budget, _BEGIN + timedelta(seconds=seconds))
        column = int(batch.choose(candidates.rows(slice(row, row + 1)), rng=_NO_DRAWS).llms[0])
        pressed += batch.paces[0].error_per_usd > 0
        reserved = batch.reserved[0]
        if reserved is not None:
            books.reserve(reserved)
            llms[row] = column
            cost = float(paid[row, column])
            spent += cost
            in_flight.append((seconds + _CALL_S, reserved, cost))
    return Paced(llms=llms, spent_usd=spent, constrained=pressed * 2 > n)
