"""The dual of joint assignment: what a unit of each supply is worth, and the bound that this proves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from routing.assignment.problem import Lines, Matrix, Prices, Supplies

#: Temperatures of the smoothed dual, from coarse to fine; each start is the last one's end.
_ANNEALING = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
#: Halvings of the interval that holds lambda, at most: to the last bit of a float.
_HALVINGS = 80
#: Relative error that sums of costs may have, and a lambda that nothing exceeds.
_ROUNDING = 1e-12
_GREATEST = 1e100
#: How far the bound may be above the least one, in quality per line.
_EXACTNESS = 1e-13


@dataclass(frozen=True, slots=True)
class Reduced:
    """Lines seen through prices: qualities less what the supplies they use are worth."""

    #: Shape (G, H); ``-inf`` where the line's limits forbid the LLM.
    values: Matrix

    @property
    def best(self) -> Matrix:
        """The greatest of each line, shape (G,)."""
        best: Matrix = self.values.max(axis=1, initial=-np.inf)
        return best

    @property
    def regrets(self) -> Matrix:
        """What each choice loses against the line's best, at least 0, shape (G, H)."""
        return self.best[:, None] - self.values


def reduce_lines(lines: Lines, prices: Prices) -> Reduced:
    """Give ``1 - error - lambda cost - request price - token price * tokens`` for each line and LLM."""
    values = (1 - lines.errors) - prices.error_per_usd * lines.costs - prices.per_request
    if lines.tokens is not None:
        values -= prices.per_token * lines.tokens
    return Reduced(np.where(lines.open, values, -np.inf))


def dual_bound(lines: Lines, supplies: Supplies, prices: Prices) -> float:
    """Give the dual's value: no assignment has a greater quality, whatever the prices (weak duality)."""
    bound = float((lines.sizes * reduce_lines(lines, prices).best).sum())
    for supply, price in _priced(supplies, prices):
        used = price > 0
        bound += float((np.asarray(supply)[used] * price[used]).sum())
    return bound


def no_prices(n_llms: int) -> Prices:
    """Give prices at which everything is free."""
    return Prices(error_per_usd=0.0, per_request=np.zeros(n_llms), per_token=np.zeros(n_llms))


def find_prices(lines: Lines, supplies: Supplies) -> Prices:
    """Give prices near the least bound: exactly by bisection for a budget alone, else by descent.

    With a budget alone the spending falls as lambda rises, and bisection ends on the lambda between over- and
    underspending. With capacities the dual is smoothed by a softmax and minimised by L-BFGS-B at falling
    temperatures. Source: Lagrangian relaxation (Fisher 1981); smoothing (Nesterov 2005).
    """
    if supplies.requests is None and supplies.tokens is None:
        return _bisect(lines, supplies.budget_usd)
    return _descend(lines, supplies)


def spending(lines: Lines, error_per_usd: float) -> float:
    """Give the USD of the Lagrangian choice at lambda, the cheaper of equals: it falls as lambda rises."""
    prices = Prices(
        error_per_usd=error_per_usd,
        per_request=np.zeros(lines.errors.shape[1]),
        per_token=np.zeros(lines.errors.shape[1]),
    )
    reduced = reduce_lines(lines, prices)
    costs = np.where(reduced.values == reduced.best[:, None], lines.costs, np.inf).min(axis=1)
    return float((lines.sizes * costs).sum())


def _bisect(lines: Lines, budget_usd: float) -> Prices:
    prices = no_prices(lines.errors.shape[1])
    # A budget that is exactly some assignment's cost is enough for it, in whatever order that was summed.
    budget_usd *= 1 + _ROUNDING
    if spending(lines, 0.0) <= budget_usd:
        return prices
    low, high = 0.0, 1.0
    while spending(lines, high) > budget_usd and high < _GREATEST:
        low, high = high, high * 8
    slack = budget_usd - spending(lines, high)
    for _ in range(_HALVINGS):
        # By convexity the bound at ``high`` is above the least by no more than this.
        if (high - low) * slack <= _EXACTNESS * len(lines.errors):
            break
        middle = (low + high) / 2
        left = budget_usd - spending(lines, middle)
        if left < 0:
            low = middle
        else:
            high, slack = middle, left
    return Prices(error_per_usd=high, per_request=prices.per_request, per_token=prices.per_token)


@dataclass(frozen=True, slots=True)
class _Scales:
    """Prices as one vector of like-sized numbers: lambda x mean cost, requests, tokens x mean tokens."""

    cost: float
    tokens: float

    def prices(self, vector: Matrix) -> Prices:
        n_llms = (len(vector) - 1) // 2
        return Prices(
            error_per_usd=float(vector[0]) / self.cost,
            per_request=vector[1 : 1 + n_llms],
            per_token=vector[1 + n_llms :] / self.tokens,
        )


def _descend(lines: Lines, supplies: Supplies) -> Prices:
    n_llms = lines.errors.shape[1]
    tokens = np.zeros_like(lines.errors) if lines.tokens is None else lines.tokens
    scales = _Scales(float(lines.costs.mean()) or 1.0, float(tokens.mean()) or 1.0)
    limits = np.concatenate(
        [
            [supplies.budget_usd / scales.cost],
            np.full(n_llms, np.inf) if supplies.requests is None else supplies.requests,
            np.full(n_llms, np.inf) if supplies.tokens is None else supplies.tokens / scales.tokens,
        ]
    )
    bound = np.isfinite(limits)
    vector = np.zeros(len(limits))

    def smoothed(free: Matrix, temperature: float) -> tuple[float, Matrix]:
        vector[bound] = free
        values = reduce_lines(lines, scales.prices(vector)).values / temperature
        peaks = values.max(axis=1, keepdims=True)
        shares = np.exp(values - peaks)
        totals = shares.sum(axis=1, keepdims=True)
        shares *= lines.sizes[:, None] / totals
        softened = temperature * float((lines.sizes * (peaks + np.log(totals))[:, 0]).sum())
        used = np.concatenate(
            [
                [(shares * lines.costs).sum() / scales.cost],
                shares.sum(axis=0),
                (shares * tokens).sum(axis=0) / scales.tokens,
            ]
        )
        n = max(1, int(lines.sizes.sum()))
        value = (softened + float((limits[bound] * free).sum())) / n
        return value, (limits[bound] - used[bound]) / n

    free = np.zeros(int(bound.sum()))
    for temperature in _ANNEALING:
        found = minimize(
            smoothed,
            free,
            args=(temperature,),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1e6)] * len(free),
            options={"maxiter": 200},
        )
        free = found.x
    vector[:] = 0
    vector[bound] = free
    return scales.prices(vector.copy())


def _priced(supplies: Supplies, prices: Prices) -> list[tuple[NDArray[np.float64], Matrix]]:
    pairs = [(np.array([supplies.budget_usd]), np.array([prices.error_per_usd]))]
    if supplies.requests is not None:
        pairs.append((supplies.requests, prices.per_request))
    if supplies.tokens is not None:
        pairs.append((supplies.tokens, prices.per_token))
    return pairs
