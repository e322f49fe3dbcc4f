"""Databases with the tables in them, and the values that storage tests keep there."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.quality.pool_prior import fit_pool_prior
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import LLMs, Registration


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """An engine on a migrated, otherwise empty database of the test's own."""
    made = make_engine(migrated_url)
    yield made
    made.dispose()


@pytest.fixture
def cluster_map() -> ClusterMap:
    """Four cells in four dimensions, one at the end of each axis."""
    return make_map(checksum="a")


@pytest.fixture
def make_registration() -> Callable[..., Registration]:
    """Make a registration, of which a test names only what it is about."""
    return registration_of


@pytest.fixture
def stocked(engine: Engine, cluster_map: ClusterMap) -> Engine:
    """The engine's database with LLMs ``a`` and ``b`` registered and the map active."""
    prior = fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=(4,))
    with transaction(engine) as session:
        for name in ("b", "a"):
            LLMs(session).register(registration_of(name))
        ClusterMaps(session).activate(ClusterMaps(session).add(cluster_map, prior))
    return engine


def make_map(*, checksum: str) -> ClusterMap:
    """Give a map whose version depends on ``checksum``."""
    return ClusterMap(
        centroids=np.eye(4, dtype=np.float32),
        sizes=(4,),
        temperature=16.0,
        fingerprint=Fingerprint(name="axes", dimension=4, precision="f32", max_length=256, checksum=checksum),
    )


def registration_of(
    name: str = "a",
    *,
    price: Price | None = None,
    base_url: str = "http://127.0.0.1:1/v1",
    api_key_ref: str = "env:KEY",
    **facts: object,
) -> Registration:
    """Give a registration with a price of 1 and 2 USD per million tokens unless told otherwise."""
    price = price or Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    llm = LLM(name=name, price=price, **facts)  # type: ignore[arg-type]
    return Registration(llm=llm, base_url=base_url, provider_model=f"{name}-2026", api_key_ref=api_key_ref)
