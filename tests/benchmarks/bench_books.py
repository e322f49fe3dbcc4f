"""Speed of the books on a real Postgres: usage booked per second, and what a grant costs a router."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal

import numpy as np
from sqlalchemy import Engine

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers import messages
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.learner import Learner, refit_lengths
from workers.messages import Message, ReservationRecord, UsageRecord
from workers.settings import Settings
from workers.storage import migrate
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import LLMs, Registration
from workers.storage.tenants import Tenant, Tenants
from workers.tenants import Lender

SIZES, N_LLMS, DIMENSION = (5, 10, 20, 40, 80), 20, 384
BATCH, N_REPLIES, N_GRANTS = 1_000, 20_000, 200
DAY, NOON = date(2026, 11, 3), 1_793_707_200
SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)


def run(database_url: str, n_replies: int = N_REPLIES) -> dict[str, float]:
    """Give rates and latencies on an empty database: 20 LLMs, 155 cells in 5 resolutions, batches of 1,000.

    ``replies_per_second``: usage of a tenant without a budget, decoded, verified, booked and learned from by
    one learner, which takes ``learner_cpu_us`` for each; ``..._reserved``: with a reservation each, for a
    tenant with a budget; ``..._two_learners``: that by two at once. ``refit_lengths_ms``: both models fitted
    and published. ``grant_ms``: what a router waits when a grant is used up, alone, and with eight routers
    asking all the time.
    """
    migrate.upgrade(database_url)
    engine = make_engine(database_url, pool_size=10)
    try:
        version = stock(engine)
        plain, reserved = (_make_batches(name, version, n_replies) for name in ("plain", "acme"))
        left, right = (_make_batches(name, version, n_replies) for name in ("acme", "acme"))
        learner = Learner(engine=engine, signer=SIGNER, settings=Settings())
        cpu = time.process_time()
        one = _seconds(lambda: [learner.handle(batch) for batch in plain])
        cpu = time.process_time() - cpu
        budgeted = _seconds(lambda: [learner.handle(batch) for batch in reserved])
        with ThreadPoolExecutor(2) as pool:
            two = _seconds(
                lambda: list(
                    pool.map(lambda batches: [learner.handle(batch) for batch in batches], (left, right))
                )
            )
        refit_s = _seconds(lambda: refit_lengths(engine))
        alone = _time_grants(engine, 0)
        with ThreadPoolExecutor(8) as pool:
            crowded = [
                wait for waits in pool.map(lambda n: _time_grants(engine, n), range(8)) for wait in waits
            ]
    finally:
        engine.dispose()
    return {
        "replies": n_replies,
        "replies_per_second": n_replies / one,
        "learner_cpu_us": 1e6 * cpu / n_replies,
        "replies_per_second_reserved": n_replies / budgeted,
        "replies_per_second_two_learners": 2 * n_replies / two,
        "refit_lengths_ms": 1e3 * refit_s,
        "grant_ms_p50": 1e3 * float(np.median(alone)),
        "grant_ms_p99_eight_routers": 1e3 * float(np.quantile(crowded, 0.99)),
    }


def _time_grants(engine: Engine, number: int) -> list[float]:
    lender = Lender(engine, slot=f"r-{number}", share=0.0)
    return [_seconds(lambda: lender("acme", DAY, Decimal("0.001"))) for _ in range(N_GRANTS)]


def stock(engine: Engine) -> str:
    """Keep 20 LLMs, a map of 155 cells and a tenant; give the map's version."""
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
        for number in range(N_LLMS):
            price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
            llm = LLM(name=f"llm-{number:02}", price=price, simulated=True)
            LLMs(session).register(
                Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model=llm.name)
            )
        version = ClusterMaps(session).add(cluster_map, prior)
        ClusterMaps(session).activate(version)
        Tenants(session).add(Tenant(name="acme", usd_per_day=1e6))
    return version


def _make_batches(tenant: str, version: str, n_replies: int) -> list[list[Message]]:
    rng = np.random.default_rng()
    starts = np.cumsum((0, *SIZES[:-1]))
    entries = []
    for number in range(n_replies):
        llm = f"llm-{rng.integers(N_LLMS):02}"
        prompt_id = f"prompt-{rng.integers(2**62):x}-{number}"
        token = SIGNER.sign(
            DecisionFacts(
                prompt_id=prompt_id,
                llm=llm,
                map_version=version,
                cells=tuple((starts + rng.integers(SIZES)).tolist()),
                propensity=1.0,
                decided_at=NOON,
            )
        )
        if tenant == "acme":
            reserved = ReservationRecord(decision_id=token, tenant=tenant, grant=1, reserved_usd=0.002)
            entries.append(_message(messages.encode(reserved), messages.RESERVATION_EVENT))
        usage = UsageRecord(
            usage_id=f"uniroute.dispatch.{llm}/0/{number}",
            prompt_id=prompt_id,
            decision_id=token,
            llm=llm,
            outcome="ok",
            attempts=1,
            seconds=float(rng.uniform(0.1, 3.0)),
            tenant=tenant,
            input_tokens=int(rng.integers(10, 1_000)),
            output_tokens=int(rng.integers(10, 1_000)),
            cost_usd=float(rng.uniform(1e-5, 1e-3)),
        )
        entries.append(_message(messages.encode(usage), messages.USAGE_EVENT))
    return [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]


def _message(value: bytes, event: str) -> Message:
    return Message(
        topic="uniroute.usage",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=b"p",
        value=value,
        headers=(("ce_type", event.encode()),),
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1]), indent=2))
