"""What becomes of maps and LLMs: the first map serves, a later one waits, nobody's knowledge is wiped."""

from collections.abc import Iterator

import numpy as np
import pytest
from fake_embedders import FakeEmbedder
from sqlalchemy import Engine

from routing.llms import LLM, Price
from workers.errors import UsageError
from workers.onboarding import KnownErrors, activate_map, fit_map, onboard
from workers.settings import Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import Registration
from workers.storage.snapshots import load_state

pytestmark = pytest.mark.stack

TEXTS = [f"text {number}" for number in range(40)]
EMBEDDER = FakeEmbedder()


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """An engine on a migrated, otherwise empty database."""
    made = make_engine(migrated_url)
    yield made
    made.dispose()


def register(engine: Engine, kafka_bootstrap: str, name: str, *, labels: int) -> None:
    """Register an LLM that is wrong on all its labels."""
    price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
    onboard(
        engine,
        Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix="onboarding."),
        Registration(llm=LLM(name=name, price=price), base_url="http://127.0.0.1:1/v1", provider_model=name),
        embeddings=EMBEDDER.encode(TEXTS[:labels]),
        scores=np.zeros(labels),
    )


def active_version(engine: Engine) -> str:
    """Name the map in force."""
    with transaction(engine) as session:
        active = ClusterMaps(session).active()
    assert active is not None
    return active.cluster_map.version


def test_the_first_map_is_put_in_force(engine: Engine) -> None:
    """There is nothing that it could wipe."""
    version = fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS), sizes=(2,))

    assert active_version(engine) == version


def test_a_later_map_waits_beside_the_one_in_force(engine: Engine, kafka_bootstrap: str) -> None:
    """On the new map nothing is known of the LLMs: it is refused until someone insists."""
    first = fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS), sizes=(2,))
    register(engine, kafka_bootstrap, "small", labels=20)

    second = fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS), sizes=(3,))

    assert active_version(engine) == first
    with pytest.raises(UsageError, match="nothing is known of small"):
        activate_map(engine, second)
    activate_map(engine, second, even_blind=True)
    assert active_version(engine) == second


def test_a_map_on_which_every_llm_is_known_is_activated(engine: Engine, kafka_bootstrap: str) -> None:
    """The way back needs no insisting."""
    first = fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS), sizes=(2,))
    register(engine, kafka_bootstrap, "small", labels=20)
    second = fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS), sizes=(3,))
    activate_map(engine, second, even_blind=True)

    activate_map(engine, first)

    assert active_version(engine) == first


def test_a_map_that_nobody_kept_is_refused(engine: Engine) -> None:
    """The sentence names the command that lists maps."""
    with pytest.raises(UsageError, match="uniroute map list"):
        activate_map(engine, "0123456789abcdef")


def test_too_few_prompts_are_refused(engine: Engine) -> None:
    """Five clusters cannot be made of three prompts."""
    with pytest.raises(UsageError, match="3 prompts"):
        fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS[:3]), sizes=(5,))


def test_an_llm_without_labels_starts_from_the_prior(engine: Engine, kafka_bootstrap: str) -> None:
    """Known LLMs that are wrong on half of everything make a newcomer's rate one half in every cell."""
    embeddings = EMBEDDER.encode(TEXTS)
    errors = np.tile([[0.0, 1.0], [1.0, 0.0]], (20, 1))
    fit_map(engine, EMBEDDER, embeddings, known=KnownErrors(embeddings=embeddings, errors=errors), sizes=(2,))

    register(engine, kafka_bootstrap, "small", labels=0)

    with transaction(engine) as session:
        snapshot = load_state(session).snapshot
    assert snapshot is not None
    np.testing.assert_allclose(snapshot.error_rates, 0.5, atol=1e-6)


def test_another_llm_moves_nobody_s_rates(engine: Engine, kafka_bootstrap: str) -> None:
    """The rates of the first are the same bits before and after the second joins."""
    fit_map(engine, EMBEDDER, EMBEDDER.encode(TEXTS), sizes=(2, 3))
    register(engine, kafka_bootstrap, "small", labels=20)
    with transaction(engine) as session:
        before = load_state(session).snapshot

    register(engine, kafka_bootstrap, "large", labels=5)

    with transaction(engine) as session:
        after = load_state(session).snapshot
    assert before is not None
    assert after is not None
    assert after.names == ("large", "small")
    assert after.error_rates[:, 1].tobytes() == before.error_rates[:, 0].tobytes()
