"""Fixtures that more than one folder of tests needs."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from workers.local.kafka import Kafka
    from workers.local.postgres import Postgres
    from workers.local.stack import LocalStack

# Examples may take as long as they need: how long that is says something of the machine.
settings.register_profile("uniroute", deadline=None)
settings.load_profile("uniroute")


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
def unstarted_stack() -> Iterator["LocalStack"]:
    """The session's private stack, of which the fixtures below start what they need; gone when pytest is."""
    from workers.local.stack import LocalStack  # noqa: PLC0415  # tests of routing need no Kafka client

    # Not in pytest's own folder: another run of pytest would bar the way to it for Postgres's account.
    with tempfile.TemporaryDirectory(prefix="uniroute-tests-") as folder:
        stack = LocalStack(Path(folder))
        yield stack
        stack.stop()


@pytest.fixture(scope="session")
def stack(unstarted_stack: "LocalStack") -> "LocalStack":
    """A private Kafka and Postgres, both up, which the whole session shares."""
    unstarted_stack.start()
    return unstarted_stack


@pytest.fixture(scope="session")
def kafka(unstarted_stack: "LocalStack") -> "Kafka":
    """The session's Kafka, without Postgres."""
    unstarted_stack.kafka.start()
    return unstarted_stack.kafka


@pytest.fixture(scope="session")
def postgres(unstarted_stack: "LocalStack") -> "Postgres":
    """The session's Postgres, without Kafka."""
    unstarted_stack.postgres.start()
    return unstarted_stack.postgres


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka: "Kafka") -> str:
    """``host:port`` of the session's broker; tests share it, so give topics and groups names of your own."""
    return kafka.bootstrap


@pytest.fixture
def database_url(postgres: "Postgres") -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database; removed after the test with whatever sessions are left."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def migrated_template(postgres: "Postgres") -> str:
    """The name of a migrated, otherwise empty database to copy."""
    from workers.storage import migrate  # noqa: PLC0415  # as above

    migrate.upgrade(postgres.create_database("migrated_template"))
    return "migrated_template"


@pytest.fixture
def migrated_url(postgres: "Postgres", migrated_template: str) -> Iterator[str]:
    """The SQLAlchemy URL of a migrated, otherwise empty database of the test's own."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres.create_database(name, template=migrated_template)
    postgres.drop_database(name)
