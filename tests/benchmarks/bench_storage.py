"""Speed of storage on a real Postgres: feedback counted per second, and what a router's refresh costs."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Engine

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers.storage import migrate
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.llms import LLMs, Registration
from workers.storage.routing_state import RoutingState
from workers.storage.snapshots import SnapshotSource, load_state

SIZES, N_LLMS, DIMENSION = (5, 10, 20, 40, 80), 20, 384
BATCH, N_FEEDBACKS = 500, 20_000
NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


def run(database_url: str, n_feedbacks: int = N_FEEDBACKS) -> dict[str, float]:
    """Give rates and latencies on an empty database: 20 LLMs, 155 cells in 5 resolutions, batches of 500.

    ``feedbacks_per_second``: one learner, each batch recorded and counted in one transaction;
    ``..._two_learners``: two threads with the same LLMs and cells; ``..._replayed``: all of it known already.
    ``record_us``, ``count_us``: the two parts per feedback. ``load_state_ms``: what a router reads when the
    version moved; ``poll_us`` when it did not; ``notify_ms``: from a commit to a swapped snapshot.
    """
    migrate.upgrade(database_url)
    engine = make_engine(database_url)
    try:
        version = _stock(engine)
        results = _measure_learning(engine, version, n_feedbacks)
        results |= _measure_routers(engine, version)
    finally:
        engine.dispose()
    return results


def _measure_learning(engine: Engine, version: str, n_feedbacks: int) -> dict[str, float]:
    alone, left, right = (_make_batches(name, version, n_feedbacks) for name in ("alone", "left", "right"))
    seconds = {"record": 0.0, "count": 0.0}

    def learn_timed(batch: list[FeedbackEntry]) -> None:
        with transaction(engine) as session:
            start = time.perf_counter()
            fresh = Feedback(session).record(batch)
            recorded = time.perf_counter()
            _count(CellCounts(session), list(fresh.values()))
            seconds["record"] += recorded - start
            seconds["count"] += time.perf_counter() - recorded

    one = _seconds(lambda: [learn_timed(batch) for batch in alone])
    parts = dict(seconds)
    replayed = _seconds(lambda: [learn_timed(batch) for batch in alone])
    with ThreadPoolExecutor(2) as pool:
        two = _seconds(
            lambda: list(pool.map(lambda batches: [_learn(engine, b) for b in batches], (left, right)))
        )
    return {
        "feedbacks": n_feedbacks,
        "batch": BATCH,
        "feedbacks_per_second": n_feedbacks / one,
        "feedbacks_per_second_two_learners": 2 * n_feedbacks / two,
        "feedbacks_per_second_replayed": n_feedbacks / replayed,
        "record_us": 1e6 * parts["record"] / n_feedbacks,
        "count_us": 1e6 * parts["count"] / n_feedbacks,
    }


def _measure_routers(engine: Engine, version: str) -> dict[str, float]:
    names, rates = _names(), np.full((sum(SIZES), N_LLMS), 0.5)

    def publish() -> None:
        with transaction(engine) as session:
            ErrorRates(session).publish(version, names, rates, reason="benchmark")

    def load() -> None:
        with transaction(engine) as session:
            load_state(session)

    def poll() -> None:
        with transaction(engine) as session:
            RoutingState(session).version()

    delays = []
    publish()
    with SnapshotSource(engine, poll_seconds=60) as source:
        for _ in range(20):
            source.wait_for(lambda found: found.snapshot is not None, timeout_seconds=10)
            last = source.snapshot
            publish()
            start = time.perf_counter()
            source.wait_for(lambda found, last=last: found.snapshot is not last, timeout_seconds=10)
            delays.append(time.perf_counter() - start)
    return {
        "publish_ms": 1e3 * _median_seconds(publish),
        "load_state_ms": 1e3 * _median_seconds(load),
        "poll_us": 1e6 * _median_seconds(poll),
        "notify_ms": 1e3 * float(np.median(delays)),
    }


def _learn(engine: Engine, batch: list[FeedbackEntry]) -> None:
    with transaction(engine) as session:
        _count(CellCounts(session), list(Feedback(session).record(batch).values()))


def _count(counts: CellCounts, fresh: list[FeedbackEntry]) -> None:
    rows = [(entry, cell) for entry in fresh for cell in entry.cells]
    counts.add(
        [entry.map_version for entry, _ in rows],
        [entry.llm for entry, _ in rows],
        [cell for _, cell in rows],
        [(1.0 - entry.score) * entry.weight for entry, _ in rows],
        [entry.weight for entry, _ in rows],
    )


def _stock(engine: Engine) -> str:
    rng = np.random.default_rng(0)
    cluster_map = ClusterMap(
        centroids=rng.normal(size=(sum(SIZES), DIMENSION)).astype(np.float32),
        sizes=SIZES,
        temperature=16.0,
        fingerprint=Fingerprint(
            name="random", dimension=DIMENSION, precision="f32", max_length=1, checksum=""
        ),
    )
    no_prompts = np.zeros((0, len(SIZES)), dtype=np.int32)
    prior = fit_pool_prior(no_prompts, np.zeros((0, 0)), sizes=SIZES)
    with transaction(engine) as session:
        for name in _names():
            llm = LLM(name=name, price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0), simulated=True)
            LLMs(session).register(
                Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model=name)
            )
        version = ClusterMaps(session).add(cluster_map, prior)
        ClusterMaps(session).activate(version)
    return version


def _names() -> list[str]:
    return [f"llm-{number:02}" for number in range(N_LLMS)]


def _make_batches(prefix: str, version: str, n_feedbacks: int) -> list[list[FeedbackEntry]]:
    rng = np.random.default_rng(len(prefix))
    starts = np.cumsum((0, *SIZES[:-1]))
    names = _names()
    entries = [
        FeedbackEntry(
            feedback_id=f"{prefix}-{rng.integers(2**62):x}-{number}",
            decision_id=f"{rng.bytes(76).hex()}{number:08}",  # about as long as a signed token
            prompt_id=f"prompt-{number}",
            llm=names[rng.integers(N_LLMS)],
            map_version=version,
            cells=tuple((starts + rng.integers(SIZES)).tolist()),
            score=float(rng.integers(2)),
            event_time=NOON,
        )
        for number in range(n_feedbacks)
    ]
    return [entries[start : start + BATCH] for start in range(0, n_feedbacks, BATCH)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _median_seconds(work: Callable[[], object], repeats: int = 21) -> float:
    return float(np.median([_seconds(work) for _ in range(repeats)]))


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1]), indent=2))
