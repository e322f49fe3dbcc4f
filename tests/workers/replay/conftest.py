"""A database, two LLMs, and the decisions that a router logged from them."""

from collections.abc import Iterator

import pytest
from logged_traffic import Office

from workers.storage.engine import make_engine


@pytest.fixture
def office(migrated_url: str) -> Iterator[Office]:
    """An office on a database of the test's own."""
    engine = make_engine(migrated_url)
    yield Office.open(engine)
    engine.dispose()
