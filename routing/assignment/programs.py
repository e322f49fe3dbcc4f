"""The linear and integer programs of joint assignment, on the few columns that matter; solved by HiGHS."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array, eye_array, hstack

from routing.assignment.duals import reduce_lines
from routing.assignment.problem import Lines, Matrix, Prices, Supplies
from routing.errors import InfeasibleError

#: Lines let loose beside those that the relaxation split, when rounding these alone does not fit.
_LOOSENED = (0, 50, 400, 3200)
#: How far supplies are shrunk, in mean prompts, when the solver's tolerance overspent them.
_SHRINKING = (0.0, 1e-6, 1e-5, 1e-4)
#: Smaller excesses are the solver's tolerance.
_LEAST_EXCESS = 1e-9
#: Branches that a rounding may look at: it stays a matter of seconds.
_NODES = 2000


@dataclass(frozen=True, slots=True)
class Supply:
    """One limited supply: what a prompt of each line uses of it with each LLM, 1 on the average."""

    label: tuple[str, int | None]
    #: Shape (G, H).
    uses: Matrix
    limit: float
    scale: float


def list_supplies(lines: Lines, supplies: Supplies) -> list[Supply]:
    """Give the supplies that are limited at all: the budget, then each LLM's requests, then its tokens."""
    listed: list[Supply] = []
    if np.isfinite(supplies.budget_usd):
        scale = float(lines.costs.mean()) or 1.0
        listed.append(Supply(("budget_usd", None), lines.costs / scale, supplies.budget_usd / scale, scale))
    for name, limits, uses in (
        ("requests", supplies.requests, np.ones_like(lines.errors)),
        ("tokens", supplies.tokens, lines.tokens),
    ):
        if limits is None or uses is None:
            continue
        scale = float(uses.mean()) or 1.0
        for column in np.flatnonzero(np.isfinite(limits)):
            only = np.zeros_like(uses)
            only[:, column] = uses[:, column] / scale
            listed.append(Supply((name, int(column)), only, float(limits[column]) / scale, scale))
    return listed


@dataclass(frozen=True, slots=True)
class Restricted:
    """The program on some ``columns`` (G, H): lines with one column are settled, the others free."""

    lines: Lines
    supplies: Supplies
    columns: NDArray[np.bool_]
    #: Free columns: their lines and LLMs, shape (V,) each.
    line: NDArray[np.int64] = field(init=False)
    llm: NDArray[np.int64] = field(init=False)
    #: Prompts of the settled lines, shape (G, H).
    settled: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        sizes = self.lines.sizes
        free = (self.columns.sum(axis=1) > 1) & (sizes > 0)
        line, llm = np.nonzero(self.columns & free[:, None])
        settled = np.where(self.columns & ~free[:, None], sizes[:, None], 0)
        # A line of no prompts may hold several columns, all of them 0.
        for name, values in (("line", line), ("llm", llm), ("settled", settled.astype(np.int64))):
            object.__setattr__(self, name, values)

    def each_line_whole(self) -> tuple[csr_array, Matrix]:
        """Give the equations that each free line's shares sum to its prompts."""
        free, row = np.unique(self.line, return_inverse=True)
        matrix = coo_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(free), len(row)))
        return matrix.tocsr(), self.lines.sizes[free].astype(np.float64)

    def within_supplies(self, listed: Sequence[Supply]) -> tuple[csr_array, Matrix]:
        """Give the inequalities that the free columns use no more than the settled ones leave."""
        rows = [supply.uses[self.line, self.llm] for supply in listed]
        limits = [supply.limit - float((self.settled * supply.uses).sum()) for supply in listed]
        return csr_array(np.array(rows).reshape(len(rows), len(self.line))), np.array(limits)


def solve_relaxed(restricted: Restricted) -> tuple[Matrix, Prices] | None:
    """Give the best fractional counts, shape (G, H), with their dual prices; ``None`` when nothing fits."""
    lines = restricted.lines
    listed = list_supplies(lines, restricted.supplies)
    within, limits = restricted.within_supplies(listed)
    n_llms = lines.errors.shape[1]
    prices = {"budget_usd": np.zeros(1), "requests": np.zeros(n_llms), "tokens": np.zeros(n_llms)}
    counts = restricted.settled.astype(np.float64)
    if len(restricted.line) == 0:
        return None if np.any(limits < 0) else (counts, _prices(prices))
    equal, sizes = restricted.each_line_whole()
    found = linprog(
        -(1 - lines.errors[restricted.line, restricted.llm]),
        A_ub=within,
        b_ub=limits,
        A_eq=equal,
        b_eq=sizes,
        method="highs",
    )
    if found.x is None:
        return None
    counts[restricted.line, restricted.llm] = found.x
    for supply, marginal in zip(listed, found.ineqlin.marginals, strict=True):
        name, column = supply.label
        prices[name][column or 0] = max(-float(marginal), 0.0) / supply.scale
    return counts, _prices(prices)


def find_shortage(lines: Lines, supplies: Supplies, labels: Sequence[str]) -> dict[str, float]:
    """Tell which capacities are short when these alone cannot serve the batch, and by how much at least.

    Of all that would do, it is the least sum of additions, in mean prompts. The budget is not looked at.
    """
    open_columns = Restricted(lines, replace(supplies, budget_usd=np.inf), lines.open)
    listed = list_supplies(lines, open_columns.supplies)
    within, limits = open_columns.within_supplies(listed)
    equal, sizes = open_columns.each_line_whole()
    n_columns = len(open_columns.line)
    n_supplies = len(listed)
    found = linprog(
        np.concatenate([np.zeros(n_columns), np.ones(n_supplies)]),
        A_ub=hstack([within, -eye_array(n_supplies)]).tocsr(),
        b_ub=limits,
        A_eq=hstack([equal, csr_array((equal.shape[0], n_supplies))]).tocsr(),
        b_eq=sizes,
        method="highs",
    )
    return {
        f"{supply.label[0]} of {labels[supply.label[1] or 0]}": float(amount) * supply.scale
        for supply, amount in zip(listed, found.x[n_columns:], strict=True)
        if amount > _LEAST_EXCESS
    }


def round_down(lines: Lines, supplies: Supplies, counts: Matrix, prices: Prices) -> NDArray[np.int64]:
    """Give whole counts near the fractional ``counts`` that exceed no supply.

    The whole parts stay; the prompts that are left, at most one per supply and line, are settled by an
    integer program. Where these alone cannot fit, the lines with the least regret are let loose beside them.
    """
    whole = np.floor(counts + 1e-7).astype(np.int64)
    split = np.flatnonzero(whole.sum(axis=1) < lines.sizes)
    if len(split) == 0 and _fits(lines, supplies, whole):
        return whole
    regrets = np.sort(reduce_lines(lines, prices).regrets, axis=1)
    by_regret = np.argsort(regrets[:, min(1, regrets.shape[1] - 1)], kind="stable")
    for number in _LOOSENED:
        kept = whole.copy()
        kept[by_regret[:number]] = 0
        for shrinking in _SHRINKING:
            rounded = _settle(lines, supplies, kept, shrinking)
            if rounded is None:
                break
            if _fits(lines, supplies, rounded):
                return rounded
    left = int((lines.sizes - whole.sum(axis=1)).sum())
    raise InfeasibleError({"room for whole prompts, after rounding": float(left)})


def _settle(
    lines: Lines, supplies: Supplies, kept: NDArray[np.int64], shrinking: float
) -> NDArray[np.int64] | None:
    """Give the ``kept`` counts completed by the best integer choice for what they leave open."""
    left = lines.sizes - kept.sum(axis=1)
    line, llm = np.nonzero(lines.open & (left > 0)[:, None])
    if len(line) == 0:
        return kept
    listed = list_supplies(lines, supplies)
    limits = [supply.limit - float((kept * supply.uses).sum()) - shrinking for supply in listed]
    rows = np.array([supply.uses[line, llm] for supply in listed]).reshape(len(listed), len(line))
    loose, row = np.unique(line, return_inverse=True)
    whole = coo_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(loose), len(row)))
    found = milp(
        -(1 - lines.errors[line, llm]),
        integrality=np.ones(len(line)),
        bounds=Bounds(0, left[line].astype(np.float64)),
        constraints=[
            LinearConstraint(csr_array(rows), ub=np.array(limits)),
            LinearConstraint(whole.tocsr(), lb=left[loose], ub=left[loose]),
        ],
        options={"mip_rel_gap": 1e-4, "node_limit": _NODES},
    )
    if found.x is None:
        return None
    completed = kept.copy()
    completed[line, llm] += np.rint(found.x).astype(np.int64)
    return completed


def _fits(lines: Lines, supplies: Supplies, counts: NDArray[np.int64]) -> bool:
    """Whether whole counts serve every line and exceed nothing, beyond the rounding of sums."""
    if not np.array_equal(counts.sum(axis=1), lines.sizes) or np.any(counts < 0):
        return False
    listed = list_supplies(lines, supplies)
    return all(float((counts * supply.uses).sum()) <= supply.limit * (1 + 1e-12) for supply in listed)


def _prices(prices: dict[str, Matrix]) -> Prices:
    return Prices(
        error_per_usd=float(prices["budget_usd"][0]),
        per_request=prices["requests"],
        per_token=prices["tokens"],
    )
