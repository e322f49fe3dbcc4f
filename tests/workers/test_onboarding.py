"""How a map and an LLM come to be, on the real Kafka and Postgres."""

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from fake_embedders import FakeEmbedder
from sqlalchemy import Engine

from routing.errors import InvalidInputError
from routing.llms import LLM, Price
from routing.snapshot import Snapshot
from workers.errors import UsageError
from workers.onboarding import KnownErrors, activate_map, fit_map, onboard
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import LLMs, Registration
from workers.storage.snapshots import load_state
from workers.topics import describe_topics

pytestmark = pytest.mark.stack

EMBEDDER = FakeEmbedder()
EMBEDDINGS = EMBEDDER.encode([f"prompt {number}" for number in range(60)])


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A migrated, otherwise empty database."""
    made = make_engine(migrated_url)
    yield made
    made.dispose()


@pytest.fixture
def settings(kafka_bootstrap: str, migrated_url: str) -> Settings:
    """Topics under a prefix of the test's own."""
    return Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=migrated_url,
        topic_prefix=f"{uuid.uuid4().hex[:8]}.",
        dispatch_partitions=2,
    )


def register(name: str) -> Registration:
    """Make a registration."""
    llm = LLM(name=name, price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0))
    return Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model=name)


def read_snapshot(engine: Engine) -> Snapshot:
    """Read what routers would."""
    with transaction(engine) as session:
        snapshot = load_state(session).snapshot
    assert snapshot is not None
    return snapshot


def read_names(engine: Engine) -> tuple[str, ...]:
    """Give the names of all registered LLMs."""
    with transaction(engine) as session:
        return LLMs(session).names()


def join(engine: Engine, settings: Settings, name: str, scores: list[float]) -> int | None:
    """Onboard an LLM from labels on the first prompts."""
    return onboard(
        engine,
        settings,
        register(name),
        embeddings=EMBEDDINGS[: len(scores)],
        scores=np.array(scores, dtype=np.float64),
    )


def test_an_llm_joins_from_its_labels(engine: Engine, settings: Settings) -> None:
    """It is in the snapshot with rates that follow its labels, and its topics exist before that."""
    fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))

    bad = join(engine, settings, "bad", [0.0] * 60)
    good = join(engine, settings, "good", [1.0] * 60)
    snapshot = read_snapshot(engine)

    assert good is not None
    assert bad is not None
    assert good > bad
    assert (snapshot.names, snapshot.versions.error_rates) == (("bad", "good"), str(good))
    assert snapshot.error_rates[:, 0].min() > 0.9
    assert snapshot.error_rates[:, 1].max() < 0.1
    prefix = settings.topic_prefix
    assert describe_topics(settings) == {
        f"{prefix}{kind}.{name}": count
        for name in ("bad", "good")
        for kind, count in (
            ("dispatch", 2),
            ("dispatch-batch", 2),
            ("dispatch-probe", 2),
            ("dlq.dispatch", 1),
        )
    }


def test_each_label_is_counted_in_each_resolution(engine: Engine, settings: Settings) -> None:
    """60 labels are 60 in the cells of either resolution, and they are kept apart from feedback."""
    version = fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))
    join(engine, settings, "half", [0.5] * 60)
    with transaction(engine) as session:
        counts = CellCounts(session).read(version, ["half"], n_cells=5, evidence=("label",))

    assert (counts.labels[:2].sum(), counts.labels[2:].sum()) == (60.0, 60.0)
    assert (counts.errors[:2].sum(), counts.errors[2:].sum()) == (30.0, 30.0)


@pytest.mark.parametrize("known", [False, True])
def test_joining_moves_no_other_llm(engine: Engine, settings: Settings, *, known: bool) -> None:
    """With a prior of known LLMs or without, the columns of the others stay bit-identical."""
    rng = np.random.default_rng(0)
    errors = KnownErrors(embeddings=EMBEDDINGS, errors=rng.random((60, 3)).round())
    fit_map(engine, EMBEDDER, EMBEDDINGS, known=errors if known else None, sizes=(2, 3))
    join(engine, settings, "b", rng.random(60).round().tolist())
    before = read_snapshot(engine).error_rates[:, 0].tobytes()
    join(engine, settings, "a", [0.0] * 60)
    join(engine, settings, "c", [])
    after = read_snapshot(engine)

    assert after.names == ("a", "b", "c")
    assert after.error_rates[:, 1].tobytes() == before


def test_an_llm_without_labels_joins_too(engine: Engine, settings: Settings) -> None:
    """It has rates from the start, inside 0..1, so that it can be tried."""
    fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))

    assert join(engine, settings, "new", []) is not None
    rates = read_snapshot(engine).error_rates

    assert rates.shape == (5, 1)
    assert ((rates > 0) & (rates < 1)).all()


def test_a_name_that_is_no_topic_joins(engine: Engine, settings: Settings) -> None:
    """Its dispatch topics, one per lane, and their dead letters are a slug with a hash; its name stays."""
    fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))
    join(engine, settings, "acme/large:latest", [1.0])

    assert read_snapshot(engine).names == ("acme/large:latest",)
    assert len(describe_topics(settings)) == 4


def test_an_llm_cannot_join_twice(engine: Engine, settings: Settings) -> None:
    """The second time is refused, and its labels are not counted."""
    version = fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))
    join(engine, settings, "a", [1.0] * 10)
    with pytest.raises(UsageError, match="registered already"):
        join(engine, settings, "a", [0.0] * 10)
    with transaction(engine) as session:
        counts = CellCounts(session).read(version, ["a"], n_cells=5)

    assert (counts.labels[:2].sum(), counts.errors.sum()) == (10.0, 0.0)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_out_of_range_registers_nothing(engine: Engine, settings: Settings, score: float) -> None:
    """The fault is found before anything is written."""
    fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))

    with pytest.raises(InvalidInputError):
        join(engine, settings, "a", [1.0, score])

    assert read_names(engine) == ()


def test_without_a_map_nothing_joins(engine: Engine, settings: Settings) -> None:
    """The sentence names the command that comes first, and nothing is left behind."""
    with pytest.raises(UsageError, match="uniroute map fit"):
        join(engine, settings, "a", [1.0])

    assert read_names(engine) == ()
    assert describe_topics(settings) == {}


def test_a_map_needs_prompts(engine: Engine) -> None:
    """Fewer than the smallest resolution has cells cannot fill it."""
    with pytest.raises(UsageError, match="1 prompts cannot fill 2 clusters"):
        fit_map(engine, EMBEDDER, EMBEDDINGS[:1], sizes=(2, 3))


def test_the_temperature_is_fitted_unless_given(engine: Engine) -> None:
    """On what is known of other LLMs; 16 without it, and as told where told."""
    rng = np.random.default_rng(0)
    embeddings = EMBEDDINGS
    known = KnownErrors(embeddings=embeddings, errors=rng.integers(0, 2, (60, 4)).astype(np.float64))

    def fit(known: KnownErrors | None, temperature: float | None = None) -> float:
        version = fit_map(engine, EMBEDDER, embeddings, known=known, sizes=(2, 20), temperature=temperature)
        with transaction(engine) as session:
            kept = ClusterMaps(session).get(version)
        assert kept is not None
        return kept.cluster_map.temperature

    assert fit(None) == 16.0
    assert fit(known) < 16.0  # coin flips: the softest map foretells them best
    assert fit(known, 24.0) == 24.0


def test_fitting_again_gives_the_same_map(engine: Engine) -> None:
    """The same prompts and seed are the same version, whatever was fitted between."""
    first = fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3), seed=1)
    other = fit_map(engine, EMBEDDER, EMBEDDINGS[:30], sizes=(2, 3), seed=1)
    again = fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3), seed=1)

    assert first == again != other


def test_a_later_map_waits_to_be_put_in_force(engine: Engine, settings: Settings) -> None:
    """Nothing is known of the LLMs on it: until someone changes over, routers keep the map they have."""
    first = fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))
    join(engine, settings, "a", [1.0] * 60)
    second = fit_map(engine, EMBEDDER, EMBEDDINGS[:40], sizes=(2, 4))
    before = read_snapshot(engine)
    with pytest.raises(UsageError, match="nothing is known of a "):
        activate_map(engine, second)
    activate_map(engine, second, even_blind=True)
    after = read_snapshot(engine)

    assert before.cluster_map.version == first
    assert after.cluster_map.version == second
    assert (after.names, after.error_rates.shape) == (("a",), (6, 1))


def test_a_map_that_is_not_kept_cannot_be_put_in_force(engine: Engine) -> None:
    """The sentence names the command that lists those that are."""
    with pytest.raises(UsageError, match="uniroute map list"):
        activate_map(engine, "0" * 16)


def test_an_llm_that_comes_back_starts_anew(engine: Engine, settings: Settings) -> None:
    """What it was known by before it was retired is not counted beside its new labels."""
    version = fit_map(engine, EMBEDDER, EMBEDDINGS, sizes=(2, 3))
    join(engine, settings, "a", [0.0] * 60)
    with transaction(engine) as session:
        LLMs(session).retire("a")
    join(engine, settings, "a", [1.0] * 60)
    with transaction(engine) as session:
        counts = CellCounts(session).read(version, ["a"], n_cells=5)

    assert (counts.labels[:2].sum(), counts.errors[:2].sum()) == (60.0, 0.0)
    assert read_snapshot(engine).error_rates.max() < 0.1
