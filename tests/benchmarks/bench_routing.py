"""Speed and memory of the decision core alone; run with OMP_NUM_THREADS=1 for one core."""

import json
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from routing.clusters import ClusterMap
from routing.decisions import Prompts, decide
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.policies import Candidates, Lagrangian
from routing.snapshot import Snapshot, Versions

N_PROMPTS, N_CLUSTERS, N_LLMS, DIMENSION = 10_000, 100, 100, 384


def run(n_prompts: int = N_PROMPTS) -> dict[str, float]:
    """Give microseconds per prompt, best of five, and peak bytes per prompt, for 100 clusters and 100 LLMs.

    ``predict_choose``: from cluster weights to a choice, the mathematics alone. ``decide``: the whole
    call, from embeddings to decisions with costs and limits. ``decide_one``: a batch of one.
    """
    rng = np.random.default_rng(0)
    snapshot = _make_snapshot(rng)
    rows = rng.normal(size=(n_prompts, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    prompts = Prompts(embeddings=rows, input_tokens=rng.integers(1, 2000, n_prompts).astype(np.float64))
    one = Prompts(embeddings=rows[:1], input_tokens=prompts.input_tokens[:1])
    policy = Lagrangian(20.0)
    weights = snapshot.cluster_map.weights(rows)
    costs = snapshot.predict_costs(prompts.input_tokens)
    allowed = np.ones(costs.shape, dtype=np.bool_)

    def predict_choose() -> None:
        errors = snapshot.predict_errors(weights)
        offered = Candidates(errors=errors, costs=costs, allowed=allowed, names=snapshot.names)
        policy.choose(offered, rng=rng)

    def decide_all() -> None:
        decide(prompts, snapshot, policy, rng=rng)

    def decide_one() -> None:
        decide(one, snapshot, policy, rng=rng)

    return {
        "prompts": n_prompts,
        "clusters": N_CLUSTERS,
        "llms": N_LLMS,
        "predict_choose_us_per_prompt": 1e6 * _best_seconds(predict_choose) / n_prompts,
        "decide_us_per_prompt": 1e6 * _best_seconds(decide_all) / n_prompts,
        "decide_one_us": 1e6 * _best_seconds(decide_one),
        "decide_peak_bytes_per_prompt": _peak_bytes(decide_all) / n_prompts,
    }


def _make_snapshot(rng: np.random.Generator) -> Snapshot:
    cluster_map = ClusterMap(
        centroids=rng.normal(size=(N_CLUSTERS, DIMENSION)).astype(np.float32),
        sizes=(20, 80),
        temperature=16.0,
        fingerprint=Fingerprint(
            name="random", dimension=DIMENSION, precision="f32", max_length=1, checksum=""
        ),
    )
    prices = rng.uniform(0.1, 30, (N_LLMS, 2))
    llms = tuple(
        LLM(
            name=f"llm-{i:03}", price=Price(input_usd_per_mtok=prices[i, 0], output_usd_per_mtok=prices[i, 1])
        )
        for i in range(N_LLMS)
    )
    return Snapshot(
        cluster_map=cluster_map,
        llms=llms,
        error_rates=rng.random((N_CLUSTERS, N_LLMS)),
        output_tokens=rng.uniform(50, 500, N_LLMS),
        versions=Versions(error_rates="1", prices="1"),
    )


def _best_seconds(call: Callable[[], None], *, times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _peak_bytes(call: Callable[[], None]) -> int:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
