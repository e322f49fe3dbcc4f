"""Joint assignment: the dual proves a bound, and a repair in whole prompts comes close to it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.assignment.duals import dual_bound, find_prices, reduce_lines
from routing.assignment.filling import fill_budget
from routing.assignment.problem import Assignment, Lines, Prices, Supplies, sum_up
from routing.assignment.programs import Restricted, find_shortage, round_down, solve_relaxed
from routing.errors import InfeasibleError

#: Columns beside each line's best that the first restricted program holds.
_FIRST_COLUMNS = 4000
#: The bound and the relaxed optimum agree when they differ by no more than this share.
_TOLERANCE = 1e-9
#: Rounds of adding columns; each adds what the last one's prices show to be missing, and a handful is usual.
_ROUNDS = 60


def assign_jointly(lines: Lines, supplies: Supplies, *, names: Sequence[str] | None = None) -> Assignment:
    """Give every prompt of the batch an LLM so that the sum of 1 - predicted error is near the greatest.

    The budget, the LLMs' capacities and each line's own limits are never exceeded. With a budget alone the
    dual is solved by bisection and the choice filled up in whole prompts: the gap is about one prompt. With
    capacities the dual is solved by descent, the linear relaxation by column generation from there (HiGHS),
    and what it splits is rounded by a small integer program. ``bound`` is the relaxation's optimum: the gap
    is proved, not estimated. Memory is a few arrays of shape (G, H); to assign millions of prompts, pass
    their aggregates as lines.

    Raises ``InfeasibleError`` telling what is short and by how much, LLMs by ``names`` if given, else by
    column; ``InvalidInputError`` when lines and supplies do not fit each other.
    Source: multiple-choice knapsack (Sinha & Zoltners 1979); Routoo (arXiv 2401.13979) for the problem.
    """
    supplies.check(lines)
    labels = [str(column) for column in range(lines.errors.shape[1])] if names is None else list(names)
    if lines.sizes.sum() == 0:
        return sum_up(lines, np.zeros(lines.errors.shape, dtype=np.int64), bound=0.0)
    _require_supplies(lines, supplies)
    prices = find_prices(lines, supplies)
    if supplies.requests is None and supplies.tokens is None:
        counts = fill_budget(lines, supplies.budget_usd, prices)
        return sum_up(lines, counts, bound=dual_bound(lines, supplies, prices), prices=prices)
    counts, prices, bound = _assign_capacities(lines, supplies, prices, labels)
    return sum_up(lines, counts, bound=bound, prices=prices)


def _require_supplies(lines: Lines, supplies: Supplies) -> None:
    """Raise what can be known before anything is solved."""
    sizes = lines.sizes
    closed = ~lines.open.any(axis=1) & (sizes > 0)
    if closed.any():
        raise InfeasibleError({"LLMs allowed, for prompts": float(sizes[closed].sum())})
    cheapest = np.where(lines.open, lines.costs, np.inf).min(axis=1, initial=np.inf)
    needed = float((sizes * np.where(sizes > 0, cheapest, 0)).sum())
    if needed > supplies.budget_usd * (1 + 1e-12):
        raise InfeasibleError({"budget_usd": needed - supplies.budget_usd})
    if supplies.requests is not None and sizes.sum() > np.floor(supplies.requests).sum():
        short = float(sizes.sum() - np.floor(supplies.requests).sum())
        raise InfeasibleError({"requests": short})


def _assign_capacities(
    lines: Lines, supplies: Supplies, prices: Prices, labels: Sequence[str]
) -> tuple[NDArray[np.int64], Prices, float]:
    columns = _near_best(lines, prices, _FIRST_COLUMNS)
    bound = dual_bound(lines, supplies, prices)
    counts = np.zeros(lines.errors.shape)
    for round_number in range(_ROUNDS):
        restricted = Restricted(lines, supplies, columns)
        solved = solve_relaxed(restricted)
        if solved is None:
            if np.array_equal(columns, lines.open):
                raise InfeasibleError(find_shortage(lines, supplies, labels))
            more = _FIRST_COLUMNS * 8 ** (round_number + 1)
            columns = columns | _near_best(lines, prices, more)
            continue
        counts, found = solved
        tighter = dual_bound(lines, supplies, found)
        if tighter <= bound:
            bound, prices = tighter, found
        if bound - float((counts * (1 - lines.errors)).sum()) <= _TOLERANCE * max(1.0, abs(bound)):
            break
        values = reduce_lines(lines, found).values
        held = np.where(columns, values, -np.inf).max(axis=1, keepdims=True)
        missing = (values > held + 1e-12) & ~columns
        if not missing.any():
            break
        columns = columns | missing
    return round_down(lines, supplies, counts, prices), prices, bound


def _near_best(lines: Lines, prices: Prices, extra: int) -> NDArray[np.bool_]:
    """Give the columns with the least regret: every line's best, and about ``extra`` more."""
    reduced = reduce_lines(lines, prices)
    regrets = np.where(lines.sizes[:, None] > 0, reduced.regrets, np.inf)
    wanted = len(regrets) + extra
    if wanted >= np.isfinite(regrets).sum():
        return lines.open.copy()
    limit = np.partition(regrets.ravel(), wanted)[wanted]
    near: NDArray[np.bool_] = (reduced.regrets <= limit) & lines.open
    return near
