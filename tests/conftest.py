"""Fixtures that more than one folder of tests needs."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workers.local import LocalStack


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python read its schemas by a function that Python 3.11 calls outdated."""
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")


@pytest.fixture(scope="session")
def outcomes_dir() -> Path:
    """The folder of recorded outcomes: ``UNIROUTE_OUTCOMES``, else ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNIROUTE_OUTCOMES", default))
    if not folder.is_dir():
        pytest.skip(
            "no outcome folders here: set UNIROUTE_OUTCOMES to a folder that holds mmlupro28 and llmrouter9"
        )
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator["LocalStack"]:
    """A private Kafka and Postgres, started when the first test asks and gone when pytest is."""
    from workers.local import LocalStack  # noqa: PLC0415  # tests of routing need no Kafka client

    with LocalStack(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture(scope="session")
def kafka_bootstrap(stack: "LocalStack") -> str:
    """``host:port`` of the session's broker; tests share it, so give topics and groups names of your own."""
    return stack.endpoints.kafka_bootstrap


@pytest.fixture
def database_url(stack: "LocalStack") -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database; removed after the test with whatever sessions are left."""
    name = f"test_{uuid.uuid4().hex}"
    yield stack.postgres.create_database(name)
    stack.postgres.drop_database(name)
