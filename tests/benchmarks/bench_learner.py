"""Speed of the learner on a real Postgres: feedback verified, kept, watched and counted per second."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
from benchmarks.bench_books import N_LLMS, SIGNER, SIZES, stock
from sqlalchemy import Engine, text

from workers import messages
from workers.decision_ids import DecisionFacts
from workers.learner import Learner, refit
from workers.messages import FeedbackEvent, Message
from workers.settings import Settings
from workers.storage import migrate
from workers.storage.engine import make_engine, transaction

BATCH, N_FEEDBACKS = 1_000, 20_000
NOW = 1_793_707_200
SOURCES = ("human", "checker", "judge:one")


def run(database_url: str, n_feedbacks: int = N_FEEDBACKS) -> dict[str, float]:
    """Give rates on an empty database: 20 LLMs, 155 cells in 5 resolutions, 3 sources, batches of 1,000.

    ``feedbacks_per_second``: by one learner, which takes ``learner_cpu_us`` for each;
    ``..._two_learners``: by two at once; ``..._replayed``: all of it counted already. ``refit_ms``: error
    rates of all LLMs, with the trust in each source, fitted and published. ``postgres_cpu_us`` is what
    Postgres takes for each beside the learner; two cores can do no more than ``most_on_two_cores``.
    """
    migrate.upgrade(database_url)
    engine = make_engine(database_url, pool_size=10)
    try:
        version = stock(engine)
        refit(engine, reason="benchmark")
        alone, left, right = (make_batches(version, n_feedbacks) for _ in range(3))
        cpu, server = time.process_time(), _server_cpu_s(engine)
        one = _learn(engine, alone)
        cpu, server = time.process_time() - cpu, _server_cpu_s(engine) - server
        replayed = _learn(engine, alone)
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda batches: _learn(engine, batches), (left, right)))
        two = time.perf_counter() - start
        start = time.perf_counter()
        refit(engine, reason="benchmark", wait=True)
        refit_s = time.perf_counter() - start
    finally:
        engine.dispose()
    return {
        "feedbacks": n_feedbacks,
        "feedbacks_per_second": n_feedbacks / one,
        "learner_cpu_us": 1e6 * cpu / n_feedbacks,
        "postgres_cpu_us": 1e6 * server / n_feedbacks,
        "most_on_two_cores": 2 * n_feedbacks / (cpu + server),
        "feedbacks_per_second_two_learners": 2 * n_feedbacks / two,
        "feedbacks_per_second_replayed": n_feedbacks / replayed,
        "refit_ms": 1e3 * refit_s,
    }


def _server_cpu_s(engine: Engine) -> float:
    """Give the CPU seconds that the processes of this Postgres have used, those that ended included."""
    with transaction(engine) as session:
        backend = psutil.Process(session.scalars(text("SELECT pg_backend_pid()")).one())
    postmaster = backend.parent()
    if postmaster is None:
        raise RuntimeError("Postgres runs elsewhere")
    used = [postmaster.cpu_times(), *(one.cpu_times() for one in postmaster.children())]
    ended = used[0].children_user + used[0].children_system
    return float(sum(one.user + one.system for one in used) + ended)


def _learn(engine: Engine, batches: list[list[Message]]) -> float:
    learner = Learner(engine=engine, signer=SIGNER, settings=Settings(), clock=lambda: NOW)
    start = time.perf_counter()
    for batch in batches:
        if any(learner.handle(batch)):
            raise RuntimeError("feedback was refused")
    return time.perf_counter() - start


def make_batches(version: str, n_feedbacks: int) -> list[list[Message]]:
    """Make feedback on as many decisions, half of it right."""
    rng = np.random.default_rng()
    starts = np.cumsum((0, *SIZES[:-1]))
    found = []
    for number in range(n_feedbacks):
        token = SIGNER.sign(
            DecisionFacts(
                prompt_id=f"prompt-{rng.integers(2**62):x}-{number}",
                llm=f"llm-{rng.integers(N_LLMS):02}",
                map_version=version,
                cells=tuple((starts + rng.integers(SIZES)).tolist()),
                propensity=1.0,
                decided_at=NOW,
            )
        )
        event = FeedbackEvent(
            feedback_id=f"f-{rng.integers(2**62):x}-{number}",
            decision_id=token,
            score=float(rng.integers(2)),
            source=SOURCES[rng.integers(len(SOURCES))],
        )
        value = messages.encode(event)
        found.append(
            Message(
                topic="uniroute.feedback",
                partition=0,
                offset=0,
                timestamp_ms=NOW * 1000,
                key=b"k",
                value=value,
            )
        )
    return [found[start : start + BATCH] for start in range(0, n_feedbacks, BATCH)]


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1]), indent=2))
