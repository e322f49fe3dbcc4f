"""Chooses lambda for the demonstration: the cheapest routing predicted to be as good as the best LLM."""

import numpy as np
from numpy.typing import NDArray

from routing.embedders import FloatMatrix
from routing.policies import Candidates, Lagrangian
from routing.snapshot import Snapshot

#: How much worse than the best single LLM the routing may be predicted to be: a point of a hundred.
_TOLERANCE = 0.01
_STEPS = 200


def tune_error_per_usd(
    snapshot: Snapshot, embeddings: FloatMatrix, input_tokens: NDArray[np.float64]
) -> float:
    """Give the greatest lambda at which the mean predicted error stays within .01 of the best single LLM's.

    ``embeddings`` (n, d) and ``input_tokens`` (n,) are prompts like those to come; no score of theirs is
    looked at beyond what the error rates hold already. 0 where no lambda is good enough.
    """
    weights = snapshot.cluster_map.weights(embeddings)
    errors = snapshot.predict_errors(weights)
    costs = snapshot.predict_costs(input_tokens)
    candidates = Candidates(
        errors=errors, costs=costs, allowed=np.ones(errors.shape, dtype=bool), names=snapshot.names
    )
    bound = errors.mean(axis=0).min() + _TOLERANCE
    rows = np.arange(len(errors))
    best = 0.0
    for error_per_usd in np.geomspace(0.01, 100.0, _STEPS) / costs.mean():
        chosen = Lagrangian(float(error_per_usd)).choose(candidates, rng=np.random.default_rng(0)).llms
        if errors[rows, chosen].mean() > bound:
            break
        best = float(error_per_usd)
    return best
