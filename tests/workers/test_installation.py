"""What an installation needs before it serves, made on the real Kafka and Postgres."""

import stat
import threading
import uuid
from pathlib import Path

import pytest

from workers.installation import install, keep_signing_key, set_policy
from workers.settings import Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.policies import Policies
from workers.topics import describe_topics


@pytest.fixture
def settings(kafka_bootstrap: str, database_url: str) -> Settings:
    """An empty database, and topics under a prefix of the test's own."""
    return Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=database_url,
        topic_prefix=f"{uuid.uuid4().hex[:8]}.",
        partitions=2,
    )


def read_default(settings: Settings) -> tuple[int, object]:
    """Give version and lambda of the default policy."""
    engine = make_engine(settings.database_url)
    try:
        with transaction(engine) as session:
            version, body = Policies(session).current()["default"]
            return version, body["error_per_usd"]
    finally:
        engine.dispose()


@pytest.mark.stack
def test_installing_makes_what_serving_needs(settings: Settings) -> None:
    """Tables, the core topics with their partitions, and a default policy."""
    prefix = settings.topic_prefix

    created = install(settings)

    assert describe_topics(settings) == {
        f"{prefix}prompts": 2,
        f"{prefix}feedback": 2,
        f"{prefix}decisions": 2,
        f"{prefix}usage": 2,
        f"{prefix}health": 1,
        f"{prefix}cancels": 1,
        f"{prefix}dlq.prompts": 1,
        f"{prefix}dlq.feedback": 1,
        f"{prefix}dlq.usage": 1,
        f"{prefix}dlq-handled": 1,
    }
    assert set(created) == describe_topics(settings).keys()
    assert read_default(settings) == (1, 20.0)


@pytest.mark.stack
def test_installing_again_changes_nothing(settings: Settings) -> None:
    """An operator's policy stays, and no topic is new."""
    install(settings)
    engine = make_engine(settings.database_url)
    with transaction(engine) as session:
        set_policy(Policies(session), "default", error_per_usd=5.0)
    engine.dispose()

    assert install(settings) == ()
    assert read_default(settings) == (2, 5.0)


@pytest.mark.stack
def test_several_processes_may_install_at_once(settings: Settings) -> None:
    """As replicas of a deployment do when they start together: each succeeds, and there is one of each."""
    created: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: created.append(install(settings))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(created) == 4
    assert len(describe_topics(settings)) == 10
    assert read_default(settings) == (1, 20.0)


def test_a_signing_key_is_made_once(tmp_path: Path) -> None:
    """It is long enough, stays the same, and only its owner may read it."""
    path = tmp_path / "key"

    key = keep_signing_key(path)

    assert len(key) >= 32
    assert keep_signing_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_of_two_signing_keys_made_at_once_one_is_kept(tmp_path: Path) -> None:
    """Every process gets the same."""
    keys: list[str] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        keys.append(keep_signing_key(tmp_path / "key"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 8
    assert len(set(keys)) == 1
