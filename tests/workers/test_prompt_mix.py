"""Routed prompts held against those of their map, on the real Postgres."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from learner_bench import MAP, SIGNER
from prometheus_client import REGISTRY
from sqlalchemy import Engine
from typer.testing import CliRunner

from routing.learning import PromptMix
from routing.quality.pool_prior import fit_pool_prior
from workers import messages
from workers.cli.main import command
from workers.decision_ids import DecisionFacts
from workers.learner import Learner
from workers.messages import DecisionRecord, Message, Versions
from workers.settings import Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.journal import Journal

pytestmark = pytest.mark.stack


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A map fitted on 500 prompts of each cell, .1 to .3 from their centroids."""
    made = make_engine(migrated_url)
    prior = fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=(2,))
    fitted_on = PromptMix.of(np.arange(1_000) % 2, np.linspace(0.1, 0.3, 1_000), size=2)
    with transaction(made) as session:
        maps = ClusterMaps(session)
        maps.activate(maps.add(MAP, prior, mix=fitted_on))
    yield made
    made.dispose()


def route(engine: Engine, *, first: int, second: int, distance: float = 0.2) -> None:
    """Let the learner read the decisions of so many prompts of each cell."""
    batch = [
        decision(number, cell, distance + 0.1 * (-1) ** number)
        for number, cell in enumerate([0] * first + [1] * second)
    ]
    learner = Learner(engine=engine, signer=SIGNER, settings=Settings())
    for start in range(0, len(batch), 400):
        assert not any(learner.handle(batch[start : start + 400]))


def decision(number: int, cell: int, distance: float) -> Message:
    """A record of the decisions topic."""
    facts = DecisionFacts(
        prompt_id=f"p-{number}",
        llm="a",
        map_version=MAP.version,
        cells=(cell,),
        propensity=1.0,
        decided_at=1_800_000_000,
    )
    record = DecisionRecord(
        prompt_id=facts.prompt_id,
        decision_id=SIGNER.sign(facts),
        decided_at=datetime.fromtimestamp(facts.decided_at, tz=UTC),
        llm="a",
        policy="default@1",
        policy_body={},
        propensity=1.0,
        draw=None,
        cells=facts.cells,
        weights=b"",
        input_tokens=1.0,
        limits={},
        candidates=(),
        versions=Versions(map=MAP.version, rates="1", prices="1", policy="default@1"),
        distance=distance,
    )
    return Message(
        topic="uniroute.decisions",
        partition=0,
        offset=number,
        timestamp_ms=facts.decided_at * 1000,
        key=b"k",
        value=messages.encode(record),
    )


def status(monkeypatch: pytest.MonkeyPatch, url: str, *arguments: str) -> str:
    """Type ``drift status``."""
    monkeypatch.setenv("UNIROUTE_DATABASE_URL", url)
    result = CliRunner().invoke(command, ["drift", "status", *arguments])

    assert result.exit_code == 0, result.output
    return result.output


def test_a_map_that_no_longer_fits_is_told_of_once(
    engine: Engine, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half and half becomes three in four: an event, a metric and figures; as it was, and it fits again."""
    before = status(monkeypatch, migrated_url)
    route(engine, first=500, second=500)
    fits = json.loads(status(monkeypatch, migrated_url, "--json"))["map"]
    for _ in range(2):
        route(engine, first=750, second=250)
    misfit = REGISTRY.get_sample_value("uniroute_map_misfit")
    told = status(monkeypatch, migrated_url)
    route(engine, first=500, second=500)
    with transaction(engine) as session:
        events = [one.body["change"] for one in Journal(session).read(kinds=("prompt mix",))]

    assert "nothing is known of its fit" in before
    assert (fits["windows"], fits["prompts"], fits["report"]["drifted"]) == (1, 0, False)
    assert misfit == 1.0
    assert "NO LONGER FITS: 2" in told  # a quarter of the prompts moved, less what chance explains
    assert events == ["fits again", "misfit"]


def test_prompts_far_from_every_centroid_are_told_of(
    engine: Engine, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same shares, .3 farther out."""
    route(engine, first=500, second=500, distance=0.5)
    found = json.loads(status(monkeypatch, migrated_url, "--json"))["map"]["report"]

    assert found["drifted"]
    assert found["moved"] == 0.0
    assert found["farther"] > 1.0
