"""A cascade on recorded outcomes beside the best route by one threshold; the confidences are simulated."""

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


def run(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Give the least cost per prompt at which each is as good as the best single LLM, on held-out prompts.

    Both choose between a cheap LLM, which may be any, and the best one. The route decides before any call, by
    the cheap one's predicted quality (the mean over the nearest training prompts); the cascade pays the cheap
    call, and decides by a confidence that is simulated: the score of the answer plus noise, calibrated on the
    training prompts by isotonic regression. Thresholds are chosen with hindsight for both.
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
    routes, cascades = [], []
    for cheap in range(quality.shape[1]):
        if cheap == best:
            continue
        pair = (quality[test, cheap], quality[test, best], costs[test, cheap], costs[test, best])
        routes.append(_cheapest(predicted[:, cheap], *pair, target=target, pays_both=False))
        told = quality[:, cheap] + rng.normal(0.0, _SPREAD, len(quality))
        fitted = fit_calibration(told[train], quality[train, cheap])
        chances = np.array([fitted.chance(one) for one in told[test]])
        cascades.append(_cheapest(chances, *pair, target=target, pays_both=True))
    strong_usd = float(costs[test, best].mean())
    return {
        "outcomes": folder.name,
        "simulated": "confidences",
        "best_llm_quality": round(target, 4),
        "best_llm_cost": strong_usd,
        "route_cost_ratio": round(min(routes) / strong_usd, 3),
        "cascade_cost_ratio": round(min(cascades) / strong_usd, 3),
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
