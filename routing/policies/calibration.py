"""Set a policy's number from representative prompts, so that a promise about their average is kept."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies.candidates import Candidates, LoggedDraws, Policy
from routing.policies.floors import EquivalentTo
from routing.policies.lagrangian import Lagrangian
from routing.policies.named import Fixed

#: Margins that ``certify_equivalence`` tests, in this order.
CANDIDATE_MARGINS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3)
#: Halvings of the interval that holds lambda.
_HALVINGS = 100
#: No lambda is greater: 1 USD in a million million is then worth an error.
_GREATEST = 1e12
#: Times 1 / mean cost: the lambdas that ``calibrate_floor_on_labels`` tests.
_LAMBDA_GRID = np.geomspace(1e-3, 1e3, 121)
_NO_DRAWS = LoggedDraws(np.empty(0))


def calibrate_floor(candidates: Candidates, margin: float) -> Lagrangian:
    """Give the cheapest Lagrangian whose mean predicted error is within ``margin`` of the best single LLM's.

    Where ``QualityFloor`` keeps every prompt within a margin, this keeps their average, and spends what one
    prompt leaves where another gains more: it is much cheaper for the same average. The best single LLM is
    the one with the least mean predicted error; a margin below 0 asks for more than it. The predicted error
    of what is chosen is a little too low (it was chosen for being low), so ask for somewhat less than the
    drop that may be realised. Prompts for which nothing is allowed are left out. Where even lambda = 0 misses
    the margin, it is given.
    """
    best = float(_allowed_means(candidates).min(initial=np.inf))
    # Equal means may differ by the rounding of their sums.
    limit = best + margin + 1e-12
    return _greatest_lambda(lambda tried: _mean_chosen(candidates, tried, candidates.errors) <= limit)


def calibrate_budget(candidates: Candidates, mean_cost_usd: float) -> Lagrangian:
    """Give the least lambda at which the mean predicted cost is at most ``mean_cost_usd``.

    Where even the cheapest LLMs cost more, lambda is ``inf``.
    """
    if _mean_chosen(candidates, math.inf, candidates.costs) > mean_cost_usd:
        return Lagrangian(math.inf)

    def too_dear(tried: float) -> bool:
        return _mean_chosen(candidates, tried, candidates.costs) > mean_cost_usd

    if not too_dear(0.0):
        return Lagrangian(0.0)
    over = _greatest_lambda(too_dear).error_per_usd
    return Lagrangian(math.nextafter(over * (1 + 1e-12), math.inf))


def calibrate_floor_on_labels(
    candidates: Candidates, wrong: NDArray[np.float64], margin: float, *, confidence: float = 0.5
) -> Lagrangian | Fixed:
    """Give the cheapest Lagrangian whose mean error is, by these labels, within ``margin`` of the best LLM's.

    ``wrong`` (n, H), in 0..1, are the outcomes of labelled prompts that the predicted errors were NOT learned
    from; the best single LLM is the one with the least mean of them. Where ``calibrate_floor`` believes the
    predicted errors, this believes the outcomes, so that no level that was predicted wrongly breaks the
    promise. A grid of lambdas, 12 % apart around 1 / mean cost, is tested from 0 upwards, and the first
    failure ends it. With ``confidence`` above .5 the upper bound of the mean paired difference is held to the
    margin. Where already lambda = 0 fails, the best single LLM alone is given. Source: as
    ``certify_equivalence``.
    """
    _check_outcomes(candidates, wrong)
    if wrong.size == 0:
        raise InvalidInputError("wrong", "must tell of at least one prompt and one LLM")
    best = candidates.names[int(wrong.mean(axis=0).argmin())]
    column = candidates.column(best)
    mean_cost = float(candidates.costs.mean()) or 1.0
    found: Lagrangian | Fixed = Fixed(best)
    for tried in (0.0, *(_LAMBDA_GRID / mean_cost).tolist()):
        policy = Lagrangian(tried)
        if upper_mean(_differences(policy, candidates, wrong, column), confidence) > margin:
            break
        found = policy
    return found


def certify_equivalence(
    candidates: Candidates,
    wrong: NDArray[np.float64],
    *,
    reference: str,
    margin: float,
    confidence: float = 0.95,
    margins: Sequence[float] = CANDIDATE_MARGINS,
) -> EquivalentTo | Fixed:
    """Give the boldest policy whose mean error is, by these labels, within ``margin`` of a reference LLM's.

    ``wrong`` (n, H), in 0..1, are the outcomes of labelled prompts that the predicted errors were NOT learned
    from. Policies ``EquivalentTo(reference, m, confidence=.5)`` are tested for rising m: the upper
    bound of the mean paired difference must be at most ``margin``. The first
    failure ends it, so that the sequence as a whole errs with probability 1 - ``confidence`` (asymptotically)
    and no more. Where already the first fails, the reference alone is given: with few labels nothing else can
    be promised. Source: SMART (arXiv 2403.13835) for the promise; fixed-sequence testing as in Learn then
    Test (arXiv 2110.01052).
    """
    _check_outcomes(candidates, wrong)
    column = candidates.column(reference)
    certified: EquivalentTo | Fixed = Fixed(reference)
    for tried in sorted(margins):
        policy = EquivalentTo(reference=reference, margin=tried, confidence=0.5)
        if upper_mean(_differences(policy, candidates, wrong, column), confidence) > margin:
            break
        certified = policy
    return certified


def _check_outcomes(candidates: Candidates, wrong: NDArray[np.float64]) -> None:
    if wrong.shape != candidates.errors.shape or not np.all((wrong >= 0) & (wrong <= 1)):
        raise InvalidInputError("wrong", f"must be in 0..1 and of shape {candidates.errors.shape}")


def _differences(
    policy: Policy, candidates: Candidates, wrong: NDArray[np.float64], column: int
) -> NDArray[np.float64]:
    """Give the outcome of what the policy chooses less that of the LLM in ``column``, prompt by prompt."""
    chosen = policy.choose(candidates, rng=_NO_DRAWS).llms
    rows = np.flatnonzero(chosen >= 0)
    differences: NDArray[np.float64] = wrong[rows, chosen[rows]] - wrong[rows, column]
    return differences


def upper_mean(differences: NDArray[np.float64], confidence: float) -> float:
    """Give the one-sided upper confidence bound of a mean of paired differences in -1..1.

    The normal bound after adding half a difference of +1, half one of -1 and one of 0, so that few
    differences, or differences that are all alike, are not taken for certainty. Source: Agresti & Min (2005),
    "Wald + 2".
    """
    n = len(differences) + 2
    mean = float(differences.sum()) / n
    variance = (float((differences**2).sum()) + 1) / n - mean**2
    return mean + NormalDist().inv_cdf(confidence) * math.sqrt(variance / n)


def _greatest_lambda(holds: Callable[[float], bool]) -> Lagrangian:
    """Give the greatest lambda at which a condition holds that no greater one fulfils; 0 if none does."""
    if holds(_GREATEST):
        return Lagrangian(math.inf)
    if not holds(0.0):
        return Lagrangian(0.0)
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, high * 16
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        low, high = (middle, high) if holds(middle) else (low, middle)
    return Lagrangian(low)


def _mean_chosen(candidates: Candidates, error_per_usd: float, values: NDArray[np.float64]) -> float:
    """Give the mean of ``values`` (n, H) over what the Lagrangian chooses; 0 where it chooses nothing."""
    llms = Lagrangian(error_per_usd).choose(candidates, rng=_NO_DRAWS).llms
    rows = np.flatnonzero(llms >= 0)
    return float(values[rows, llms[rows]].mean()) if len(rows) else 0.0


def _allowed_means(candidates: Candidates) -> NDArray[np.float64]:
    """Give each LLM's mean predicted error over the prompts, ``inf`` where it is allowed on none."""
    counts = candidates.allowed.sum(axis=0)
    sums = np.where(candidates.allowed, candidates.errors, 0.0).sum(axis=0)
    means = np.full(len(counts), np.inf)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
