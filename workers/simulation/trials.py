"""The same simulation many times, each with other prompts: how often policies keep what they promise."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

import numpy as np

from workers.simulation.policies import Simulation, simulate
from workers.simulation.recorded import MOST_LABELS, Recorded


class Spread(TypedDict):
    """A number over trials."""

    mean: float
    least: float
    most: float


class TrialsOfPolicy(TypedDict):
    """One policy over all trials."""

    kept: int
    kept_share: float
    #: Mean quality less the best single LLM's on the same traffic.
    quality_minus_best: Spread
    #: USD over the best single LLM's.
    cost_of_best: Spread


class TrialsOf(TypedDict):
    """All policies over all trials."""

    count: int
    policies: dict[str, TrialsOfPolicy]


def run_trials(
    recorded: Recorded,
    bodies: Mapping[str, Mapping[str, Any]],
    *,
    trials: int,
    prompts: int | None = None,
    labels: int = MOST_LABELS,
    seed: int = 0,
    source: str = "the file",
    track: Callable[[Iterable[int]], Iterable[int]] = lambda numbers: numbers,
) -> TrialsOf:
    """Simulate so many times, the prompts of val and test dealt anew each time in splits of the same sizes.

    Labels, certificates and traffic all differ from trial to trial; map, prior and lengths, which are the
    train split's, do not. ``track`` may report on the numbers of the trials as they come.
    """
    rng = np.random.default_rng([seed, 7])
    runs = [
        simulate(
            recorded.resplit(rng), bodies, prompts=prompts, labels=labels, seed=seed + number, source=source
        )
        for number in track(range(trials))
    ]
    return {"count": trials, "policies": {name: _summarise(name, runs) for name in bodies}}


def _summarise(name: str, runs: list[Simulation]) -> TrialsOfPolicy:
    kept = sum(run.policies[name].kept for run in runs)
    quality = [run.policies[name].quality - run.best_single.quality for run in runs]
    cost = [run.policies[name].cost_usd / (run.best_single.cost_usd or 1.0) for run in runs]
    return {
        "kept": kept,
        "kept_share": kept / len(runs),
        "quality_minus_best": _spread(quality),
        "cost_of_best": _spread(cost),
    }


def _spread(values: list[float]) -> Spread:
    return {"mean": float(np.mean(values)), "least": min(values), "most": max(values)}
