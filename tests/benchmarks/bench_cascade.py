"""Cascades on recorded outcomes beside the best route by one threshold; the confidences are simulated."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from routing.policies.cascade import fit_calibration
from workers.outcomes import read_outcomes

FloatArray = NDArray[np.float64]
#: Spread of the simulated confidence around the score it tells of: right and wrong overlap.
_SPREAD = 0.6
_NEIGHBOURS = 50
_DIMENSIONS = 100
_THRESHOLDS = np.linspace(0.0, 1.0, 201)
#: Probabilities of error that a call of the best LLM is worth.
_LAMBDAS = np.geomspace(1e-3, 1.0, 60)


def run(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Give the least cost per prompt at which each is as good as the best single LLM, on held-out prompts.

    Both choose between a cheap LLM, which may be any, and the best one. The route decides before any call, by
    the cheap one's predicted quality (the mean over the nearest training prompts); the cascade pays the cheap
    call, and decides by a confidence that is simulated: the score of the answer plus noise, calibrated on the
    training prompts by isotonic regression. Thresholds are chosen with hindsight for both. The cascade by
    gain may ask any LLM at each step, by predicted error, mean cost and the same confidences; its lambda is
    chosen with hindsight too.
    """
    outcomes = read_outcomes(folder)
    rows = np.flatnonzero(outcomes.complete & ~np.isnan(outcomes.costs_usd).any(axis=1))
    quality, costs = outcomes.scores[rows], outcomes.costs_usd[rows]
    words = TfidfVectorizer(sublinear_tf=True).fit_transform(outcomes.texts[row] for row in rows)
    embeddings = normalize(TruncatedSVD(_DIMENSIONS, random_state=seed).fit_transform(words))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    train, test = order[: len(rows) // 2], order[len(rows) // 2 :]
    best = int(np.argmax(quality[test].mean(axis=0)))
    target = float(quality[test, best].mean())
    _, near = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(embeddings[train]).kneighbors(embeddings[test])
    predicted = quality[train][near].mean(axis=1)
    told = quality + rng.normal(0.0, _SPREAD, quality.shape)
    fitted = [fit_calibration(told[train, llm], quality[train, llm]) for llm in range(quality.shape[1])]
    chances = np.array([[curve.chance(one) for one in told[test, llm]] for llm, curve in enumerate(fitted)]).T
    routes, cascades = [], []
    for cheap in range(quality.shape[1]):
        if cheap == best:
            continue
        pair = (quality[test, cheap], quality[test, best], costs[test, cheap], costs[test, best])
        routes.append(_cheapest(predicted[:, cheap], *pair, target=target, pays_both=False))
        cascades.append(_cheapest(chances[:, cheap], *pair, target=target, pays_both=True))
    gains = [
        usd
        for share in _LAMBDAS
        for reached, usd in [
            _ask_by_gain(
                1.0 - predicted,
                costs[train].mean(axis=0),
                chances,
                quality[test],
                costs[test],
                error_per_usd=share / float(costs[test, best].mean()),
            )
        ]
        if reached >= target
    ]
    strong_usd = float(costs[test, best].mean())
    return {
        "outcomes": folder.name,
        "simulated": "confidences",
        "best_llm_quality": round(target, 4),
        "best_llm_cost": strong_usd,
        "route_cost_ratio": round(min(routes) / strong_usd, 3),
        "cascade_cost_ratio": round(min(cascades) / strong_usd, 3),
        "cascade_by_gain_cost_ratio": round(min([strong_usd, *gains]) / strong_usd, 3),
    }


def _cheapest(
    trust: FloatArray,
    cheap: FloatArray,
    strong: FloatArray,
    cheap_cost: FloatArray,
    strong_cost: FloatArray,
    *,
    target: float,
    pays_both: bool,
) -> float:
    """Give the least mean cost over thresholds at which the mean quality is the target's."""
    found = float(strong_cost.mean())  # everybody to the best one
    for threshold in _THRESHOLDS:
        kept = trust >= threshold
        if np.where(kept, cheap, strong).mean() >= target:
            escalated = cheap_cost + strong_cost if pays_both else strong_cost
            found = min(found, float(np.where(kept, cheap_cost, escalated).mean()))
    return found


def _ask_by_gain(
    errors: FloatArray,
    expected_usd: FloatArray,
    chances: FloatArray,
    quality: FloatArray,
    costs: FloatArray,
    *,
    error_per_usd: float,
) -> tuple[float, float]:
    """Give mean quality and cost where ``choose_next`` says who is asked, all prompts at once.

    ``errors``, ``chances``, ``quality`` and ``costs`` have shape (n, H): predicted, told by an answer once it
    is there, true and true. The likeliest answer is the reply.
    """
    rows = np.arange(len(errors))
    asked = np.zeros(errors.shape, dtype=bool)
    for step in range(errors.shape[1]):
        best = np.where(asked, chances, 0.0).max(axis=1)
        gains = (1.0 - best)[:, None] * (1.0 - errors) - error_per_usd * expected_usd
        gains[asked] = -np.inf
        following = gains.argmax(axis=1)
        more = (gains[rows, following] > 0) | (step == 0)
        asked[rows[more], following[more]] = True
        if not more.any():
            break
    given = np.where(asked, chances, -1.0).argmax(axis=1)
    return float(quality[rows, given].mean()), float(np.where(asked, costs, 0.0).sum(axis=1).mean())
