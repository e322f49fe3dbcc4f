"""Fixtures of the tests of workers."""

from collections.abc import Iterator

import pytest
from learner_bench import MAP, PRIOR, make_registration
from sqlalchemy import Engine

from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import LLMs


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with LLMs ``a`` and ``b`` and the map in force."""
    made = make_engine(migrated_url)
    with transaction(made) as session:
        for name in ("a", "b"):
            LLMs(session).register(make_registration(name))
        ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
    yield made
    made.dispose()
