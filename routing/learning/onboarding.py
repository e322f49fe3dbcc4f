"""Onboarding an LLM with as few labels as the routing decision needs: which prompts, and when to stop."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from routing.errors import InvalidInputError
from routing.quality.counts import Matrix, Vector
from routing.quality.pool_prior import PoolPrior

_LEAST_DEVIATION = 1e-9
_SQRT_TWO_PI = float(np.sqrt(2 * np.pi))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """When a new LLM has labels enough.

    Labelling goes on while the loss expected from not knowing the LLM better, divided by its labels, is at
    least ``label_value``. That loss falls about as 1/n, so the quotient is what one more label would save:
    each LLM is labelled until its next label is worth the same as any other's, which spends a number of
    labels best. An LLM that is clearly worse or clearly better than its rivals stops at ``fewest``.
    """

    #: Error, averaged over prompts and budgets, that a label must be expected to save.
    label_value: float = 1.5e-4
    #: Labels before the rule is asked, and at most.
    fewest: int = 20
    most: int = 400
    #: Labels between two questions, at least.
    batch: int = 15

    def __post_init__(self) -> None:
        if not self.label_value > 0:
            raise InvalidInputError("label_value", f"must be above 0, not {self.label_value!r}")
        if not 1 <= self.fewest <= self.most or self.batch < 1:
            raise InvalidInputError(
                "fewest", "must be at least 1 and at most `most`, in batches of at least 1"
            )

    def wants_more(self, losses: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
        """Say for each LLM, (H,), whether to label another batch, from its ``expected_losses`` and labels."""
        n = np.asarray(labels, dtype=np.float64)
        worth = np.asarray(losses, dtype=np.float64) >= self.label_value * n
        return np.asarray((n < self.fewest) | (worth & (n < self.most)))

    def next_batch(self, loss: float, labels: int) -> int:
        """Give how many labels to ask for before the rule is asked again; 0 for an LLM that wants no more.

        The loss falls about as 1/n: with sqrt(loss * labels / label_value) labels it would be worth no more.
        All that miss are asked for at once, because each question takes a round trip.
        """
        if not self.wants_more([loss], [labels])[0]:
            return 0
        if labels < self.fewest:
            return self.fewest - labels
        missing = round(math.sqrt(loss * labels / self.label_value)) - labels
        return min(max(self.batch, missing), self.most - labels)


def label_until_settled(
    rule: StoppingRule,
    labels: ArrayLike,
    *,
    weigh: Callable[[], ArrayLike],
    ask: Callable[[int, int], int | None],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Label LLMs side by side, batch by batch, until the rule wants no more of any, or no more can be had.

    Parameters: ``labels`` (H,) that they have; ``weigh`` gives the ``expected_losses`` (H,) by the labels of
    that moment; ``ask(llm, count)`` labels an LLM on so many prompts more and gives how many labels came of
    it, ``None`` where nothing more can be asked. Gives the labels (H,), and for each LLM, (H,), whether it
    was settled: whether the rule stopped it before its most.
    """
    have = np.array(labels, dtype=np.int64)
    open_ended = np.ones(have.shape, dtype=np.bool_)
    while True:
        # Before its fewest labels an LLM is asked whatever it is worth.
        losses = np.asarray(weigh() if (have >= rule.fewest).any() else np.full(have.shape, np.inf))
        wanted = [rule.next_batch(loss, n) for loss, n in zip(losses.tolist(), have.tolist(), strict=True)]
        batches = np.where(open_ended, wanted, 0)
        if not batches.any():
            return have, ~rule.wants_more(losses, have) & (have < rule.most)
        for llm in np.flatnonzero(batches).tolist():
            gained = ask(llm, int(batches[llm]))
            open_ended[llm] = gained is not None
            have[llm] += gained or 0


def expected_losses(errors: Matrix, deviations: Matrix, costs: ArrayLike, lambdas: ArrayLike) -> Vector:
    """Give the error (H,) that each LLM's uncertainty is expected to cost, averaged over prompts and lambdas.

    Parameters: predicted ``errors`` and their standard ``deviations`` (n, H), as a snapshot
    gives them; ``costs`` (H,) or (n, H);
    ``lambdas`` (L,), those that callers use, or ``spread_lambdas``. At each prompt and lambda an LLM's score
    error + lambda * cost stands ``gap`` from its best rival's; were the truth known, the better of the two
    would be taken, which with a normal error of estimate s gains ``s (pdf(z) - z sf(z))``, z = gap / s.
    A single LLM has no rival: 0. Source: expected opportunity cost, Chick, Branke & Schmidt 2010.
    """
    values, spreads = np.asarray(errors, dtype=np.float64), np.asarray(deviations, dtype=np.float64)
    if values.ndim != 2 or values.shape != spreads.shape:  # noqa: PLR2004 - a matrix
        raise InvalidInputError("deviations", f"shape {spreads.shape} for errors of shape {values.shape}")
    rates = np.asarray(lambdas, dtype=np.float64)
    losses = np.zeros(values.shape[1])
    if 1 in values.shape[1:] or 0 in values.shape or not rates.size:
        return losses
    spreads = np.maximum(spreads, _LEAST_DEVIATION)
    for error_per_cost in rates:
        scores = values + error_per_cost * np.asarray(costs, dtype=np.float64)
        two = np.partition(scores, 1, axis=1)
        rivals = np.where(scores == two[:, [0]], two[:, [1]], two[:, [0]])
        z = np.abs(scores - rivals) / spreads
        losses += (spreads * (np.exp(-(z**2) / 2) / _SQRT_TWO_PI - z * ndtr(-z))).mean(axis=0)
    return losses / rates.size


def spread_lambdas(errors: Matrix, costs: ArrayLike, *, points: int = 9) -> Vector:
    """Give lambdas (points,) whose routes spend evenly spaced budgets, from the cheapest LLM to the dearest.

    They stand for all the budgets that callers may have, each weighing the same, as in the Area. ``costs``
    (H,) at least 0; with free or equally dear LLMs every lambda is 0.
    """
    prices = np.asarray(costs, dtype=np.float64)
    if points < 1 or prices.ndim != 1 or prices.shape != errors.shape[1:]:
        raise InvalidInputError("costs", f"one per LLM is needed, and a point; found shape {prices.shape}")
    if not prices.max() > prices.min():
        return np.zeros(points)
    grid = np.append(0.0, np.logspace(-4, 3, 60) / prices.mean())
    spent = np.array([prices[(errors + rate * prices).argmin(axis=1)].mean() for rate in grid])
    budgets = np.linspace(prices.min(), prices.max(), points)
    lambdas: Vector = grid[np.abs(spent - budgets[:, None]).argmin(axis=1)]
    return lambdas


def cautious_rates(prior: PoolPrior, errors: ArrayLike, labels: ArrayLike, *, probing: ArrayLike) -> Matrix:
    """Give error rates (C, H) in which LLMs still ``probing`` (H,) stand at the upper end of their interval.

    So an LLM that few labels flatter is not sent traffic until they are enough; others' columns are those of
    ``prior.error_rates``, to the last bit.
    """
    cautious = np.asarray(probing, dtype=np.bool_)
    rates = prior.error_rates(errors, labels)
    if cautious.shape != rates.shape[1:]:
        raise InvalidInputError("probing", f"one truth value per LLM is needed ({rates.shape[1]})")
    if not cautious.any():
        return rates
    upper = prior.intervals(errors, labels)[1]
    chosen: Matrix = np.where(cautious, upper, rates)
    return chosen


def deal_probes(
    cells: ArrayLike, *, rng: np.random.Generator, masses: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Order prompts so that any first few hold each cluster by its share of the traffic, while it has some.

    Parameters: ``cells`` (n,) of one resolution; ``masses`` (C,) at least 0: what the traffic has of each of
    its clusters, or else what the prompts have. Within a cluster the order is random, and which cluster comes
    first too: the j-th prompt of a cluster of mass m is dealt at (j + u) / m, u one uniform number per
    cluster. Clusters without mass come last.
    """
    where = np.asarray(cells)
    if where.ndim != 1:
        raise InvalidInputError("cells", f"one per prompt is needed, not shape {where.shape}")
    order: NDArray[np.int64] = rng.permutation(len(where)).astype(np.int64)
    turns = np.empty(len(where))
    for cell in np.unique(where):
        mine = np.flatnonzero(where[order] == cell)
        mass = len(mine) if masses is None else np.asarray(masses, dtype=np.float64)[cell]
        drawn = np.arange(len(mine)) + rng.random()
        turns[mine] = drawn / mass if mass > 0 else np.inf
    return order[np.argsort(turns, kind="stable")]
