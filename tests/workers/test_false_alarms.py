"""Alarms that a liar raised, and what is left of them once it is excluded, on the real Postgres."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from learner_bench import MAP, PRIOR, SIGNER
from sqlalchemy import Engine

from routing.llms import LLM, Price
from routing.quality.counts import ErrorCounts
from workers.decision_ids import DecisionFacts
from workers.learner import Learner, exclude_source, refit
from workers.learner.believing import believe
from workers.messages import Message
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.journal import Journal
from workers.storage.llms import LLMs, Registration
from workers.storage.sources import Sources
from workers.storage.watches import Watches

pytestmark = pytest.mark.stack

NOW = 1_800_000_000


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with LLM ``a``, known by 200 labels to err once in ten, and a source declared to lie."""
    made = make_engine(migrated_url)
    with transaction(made) as session:
        llm = LLM(name="a", price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0))
        LLMs(session).register(Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model="a"))
        ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
        CellCounts(session).add(MAP.version, ["a"], [0], [20.0], [200.0], evidence="label")
        for name in ("judge:liar", "judge:honest"):
            Sources(session).declare(name, kind="judge")
    yield made
    made.dispose()


def give(engine: Engine, source: str, scores: list[float]) -> None:
    """Have a learner count so many scores of a source, each of a decision of its own."""
    messages = []
    for number, score in enumerate(scores):
        facts = DecisionFacts(
            prompt_id=f"{source}-{number}",
            llm="a",
            map_version=MAP.version,
            cells=(0,),
            propensity=1.0,
            decided_at=NOW,
        )
        body = {
            "feedback_id": f"{source}-{number}",
            "decision_id": SIGNER.sign(facts),
            "score": score,
            "source": source,
        }
        messages.append(
            Message(
                topic="uniroute.feedback",
                partition=0,
                offset=number,
                timestamp_ms=1_000 * NOW,
                key=b"k",
                value=msgspec.json.encode(body),
            )
        )
    learner = Learner(engine=engine, signer=SIGNER, settings=Settings(), clock=lambda: float(NOW))
    learner.handle(messages)


def read_belief(engine: Engine) -> ErrorCounts:
    """Give what rates are made of."""
    with transaction(engine) as session:
        return believe(session, MAP.version, ["a"], sizes=(2,)).counts


def read_epochs(engine: Engine) -> dict[str, int]:
    """Give how often each LLM was noticed to change."""
    with transaction(engine) as session:
        return Watches(session).epochs()


def test_an_alarm_that_a_liar_raised_is_undone_with_it(engine: Engine) -> None:
    """Labels and honest feedback weigh again, bit for bit, what they weighed in a run without the liar."""
    give(engine, "judge:honest", [float(number % 10 > 0) for number in range(100)])
    refit(engine, reason="honest")
    before = read_belief(engine)
    give(engine, "judge:liar", [0.0] * 120)
    during, alarmed = read_belief(engine), read_epochs(engine)
    exclude_source(engine, "judge:liar", apply=True)
    after = read_belief(engine)

    assert alarmed == {"a": 1}
    assert during.labels[0, 0] < before.labels[0, 0]
    assert np.array_equal(after.labels, before.labels)
    assert np.array_equal(after.errors, before.errors)
    assert read_epochs(engine) == {}
    with transaction(engine) as session:
        [entry] = Journal(session).read(subject="judge:liar")
    assert entry.body["watched_anew"] == ["a"]


def test_labels_of_before_a_change_weigh_a_sixteenth_and_later_ones_in_full(engine: Engine) -> None:
    """200 labels, a change, 32 labels, a change, 5 labels: 200 / 256 + 32 / 16 + 5."""
    for epoch, added in ((1, 32.0), (2, 5.0)):
        with transaction(engine) as session:
            CellCounts(session).mark_labels("a", epoch=epoch)
            CellCounts(session).add(MAP.version, ["a"], [0], [0.0], [added], evidence="label")
    with transaction(engine) as session:
        found = CellCounts(session).labels(MAP.version, ["a"], n_cells=2, epochs={"a": 2})
        whole = CellCounts(session).labels(MAP.version, ["a"], n_cells=2, epochs=None)

    assert found.labels[0, 0] == 200 / 256 + 32 / 16 + 5
    assert found.errors[0, 0] == 20 / 256
    assert whole.labels[0, 0] == 237
