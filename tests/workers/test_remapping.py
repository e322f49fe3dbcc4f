"""A new map beside the one in force: feedback carried over, compared, corrected, put in force or dropped."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from installations import SIGNING_KEY, TEXTS, Installation
from kafka import KafkaProducer
from typer.testing import CliRunner

from routing.clusters import split_observation
from routing.errors import RoutingError
from routing.quality.counts import ErrorCounts
from workers.cli.main import command
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import UsageError
from workers.learner import Learner, exclude_source
from workers.local.stack import LocalStack
from workers.messages import Message
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction

pytestmark = pytest.mark.stack

SIGNER = DecisionSigner({0: SIGNING_KEY.encode()}, current=0)
NOW = int(time.time())
PROMPTS = 8 * len(TEXTS)


@pytest.fixture
def installation(
    stack: LocalStack, migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """LLM ``a``; 72 prompts of nine texts on the ingest topic; ``a`` fails every third text."""
    created = Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=tmp_path
    )
    with created:
        created.register("a")
        producer = KafkaProducer(bootstrap_servers=created.settings.kafka_bootstrap, acks="all")
        for number in range(PROMPTS):
            body = {"model": "auto", "messages": [{"role": "user", "content": TEXTS[number % len(TEXTS)]}]}
            producer.send(created.topics.prompts, key=f"p-{number}".encode(), value=json.dumps(body).encode())
        producer.close()
        for name in ("kafka_bootstrap", "database_url", "topic_prefix", "embedders_folder"):
            monkeypatch.setenv(f"UNIROUTE_{name.upper()}", str(getattr(created.settings, name)))
        yield created


def score(installation: Installation, numbers: list[int], *, correction: bool = False) -> None:
    """Count feedback on decisions of the map in force; numbers from 72 on are of prompts nobody kept."""
    with transaction(installation.engine) as session:
        fitted = ClusterMaps(session).active()
    assert fitted is not None
    placed = fitted.cluster_map.place(
        installation.embedder.encode([TEXTS[number % len(TEXTS)] for number in numbers])
    )
    batch = []
    for row, number in enumerate(numbers):
        facts = DecisionFacts(
            prompt_id=f"p-{number}",
            llm="a",
            map_version=fitted.cluster_map.version,
            cells=tuple(placed.cells[row].tolist()),
            shares=split_observation(placed.weights[row], placed.cells[row], fitted.cluster_map.sizes),
            propensity=1.0,
            decided_at=NOW,
        )
        wrong = number % len(TEXTS) % 3 == 0
        event = {
            "feedback_id": f"f-{number}{correction}",
            "decision_id": SIGNER.sign(facts),
            "score": float(wrong if correction else not wrong),
            "source": "checker" if number % 2 else "human",
            "correction": correction,
        }
        batch.append(
            Message(
                topic=installation.topics.feedback,
                partition=0,
                offset=row,
                timestamp_ms=1000 * NOW + number,
                key=b"k",
                value=msgspec.json.encode(event),
                headers=(),
            )
        )
    learner = Learner(
        engine=installation.engine, signer=SIGNER, settings=installation.settings, clock=lambda: float(NOW)
    )

    assert not any(learner.handle(batch))


def run(*arguments: str) -> Any:
    """Type a command of ``uniroute map``; its JSON, its text, or the sentence of its refusal."""
    result = CliRunner().invoke(command, ["map", *arguments])
    if isinstance(result.exception, UsageError | RoutingError):
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.output) if "--json" in arguments else result.output


def counts_of(installation: Installation, version: str) -> ErrorCounts:
    """Give the feedback that is counted on a map."""
    with transaction(installation.engine) as session:
        fitted = ClusterMaps(session).get(version)
        assert fitted is not None
        return CellCounts(session).read(
            version, ["a"], n_cells=sum(fitted.cluster_map.sizes), evidence=("feedback",)
        )


def refolded(installation: Installation, version: str) -> ErrorCounts:
    """Give the same from the stored feedback alone."""
    with transaction(installation.engine) as session:
        CellCounts(session).refold()
    return counts_of(installation, version)


def test_a_map_is_refitted_carried_compared_and_put_in_force(installation: Installation) -> None:
    """Nine clusters tell apart what five did not; what comes late is carried, corrections move both maps."""
    score(installation, [*range(PROMPTS), PROMPTS])
    found = run("refit", "--clusters", "9", "--temperature", "inf", "--json")
    version = found["version"]
    first = counts_of(installation, version)
    score(installation, [0], correction=True)
    corrected = counts_of(installation, version)

    # One piece is of a prompt that Kafka does not hold.
    assert (found["prompts"], found["pieces"], found["kept"]) == (PROMPTS, PROMPTS, PROMPTS + 1)
    assert found["comparison"]["interval"][1] < 0
    assert (first.labels.sum(), first.errors.sum()) == (PROMPTS, 24)
    assert (corrected.labels.sum(), corrected.errors.sum()) == (PROMPTS, 23)
    again = refolded(installation, version)
    assert np.array_equal(again.errors, corrected.errors)
    assert np.array_equal(again.labels, corrected.labels)
    exclude_source(installation.engine, "human", apply=True)
    assert counts_of(installation, version).labels.sum() == PROMPTS / 2
    assert "in force" in run("activate", version)
    assert "is or was in force" in run("drop", version)


def test_what_was_in_flight_is_carried_later_and_a_map_is_dropped(installation: Installation) -> None:
    """Feedback on the old map counts there at once, on the new one when it is carried; a drop is clean."""
    score(installation, list(range(40)))
    version = run("refit", "--clusters", "9", "--json")["version"]
    before = counts_of(installation, version).labels.sum()
    score(installation, list(range(40, PROMPTS)))
    late = run("carry", version, "--json")

    assert before == 40
    assert (late["pieces"], counts_of(installation, version).labels.sum()) == (PROMPTS, PROMPTS)
    assert "is deleted" in run("drop", version)
    assert "there is no cluster map" in run("carry", version)
    assert [one["in_force"] for one in run("list", "--json")] == [True]
