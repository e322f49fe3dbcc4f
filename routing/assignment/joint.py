"""Joint assignment: the dual proves a bound, and a repair in whole prompts comes close to it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from routing.assignment.duals import dual_bound, find_prices, reduce_lines
from routing.assignment.filling import fill_budget
from routing.assignment.merging import merge_equal, split_equal
from routing.assignment.problem import Assignment, Lines, Matrix, Prices, Supplies, sum_up
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
    merged, members = merge_equal(lines)
    if supplies.requests is None and supplies.tokens is None:
        prices = find_prices(merged, supplies)
        bound = dual_bound(merged, supplies, prices)
        counts = fill_budget(merged, supplies.budget_usd, prices)
    else:
        relaxed, prices, bound = _relax(merged, supplies, labels)
        counts = round_down(merged, supplies, relaxed, prices)
    return sum_up(lines, split_equal(counts, members, lines.sizes), bound=bound, prices=prices)


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


def _relax(lines: Lines, supplies: Supplies, labels: Sequence[str]) -> tuple[Matrix, Prices, float]:
    """Solve the linear relaxation by column generation: fractional counts (G, H), prices and bound."""
    prices = find_prices(lines, supplies)
    columns = _near_best(lines, prices, _FIRST_COLUMNS)
    bound = dual_bound(lines, supplies, prices)
    counts = np.zeros(lines.errors.shape)
    for round_number in range(_ROUNDS):
        solved = solve_relaxed(Restricted(lines, supplies, columns))
        if solved is None:
            columns = _make_feasible(lines, supplies, columns, labels, round_number)
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
    return counts, prices, bound


def _make_feasible(
    lines: Lines, supplies: Supplies, columns: NDArray[np.bool_], labels: Sequence[str], round_number: int
) -> NDArray[np.bool_]:
    """Give more columns, with which a program that was infeasible may have a solution, or raise the shortage.

    With a budget these are the columns of the cheapest service that the capacities allow: it fits, or nothing
    does. Without one, it is a matter of the capacities alone, and more and more columns are tried.
    """
    if np.isfinite(supplies.budget_usd):
        scale = float(lines.costs.max()) or 1.0
        thrift = replace(lines, errors=lines.costs / scale)
        cheapest, *_ = _relax(thrift, replace(supplies, budget_usd=np.inf), labels)
        needed = float((cheapest * lines.costs).sum())
        if needed > supplies.budget_usd * (1 + 1e-9) or not np.any((cheapest > 0) & ~columns):
            raise InfeasibleError({"budget_usd": max(needed - supplies.budget_usd, 0.0)})
        return columns | (cheapest > 0)
    if np.array_equal(columns, lines.open):
        raise InfeasibleError(find_shortage(lines, supplies, labels))
    return columns | _near_best(lines, find_prices(lines, supplies), _FIRST_COLUMNS * 8 ** (round_number + 1))


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
