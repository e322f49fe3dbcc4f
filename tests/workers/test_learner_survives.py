"""Counts are a fold over the feedback, whatever dies: real Kafka, real Postgres, three learners."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installations import Installation
from refolding import LLMS, refold

from workers.local.stack import LocalStack
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

#: ``make bench ARGS="refold"`` sends 50,000.
PIECES = 2_000


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """Two LLMs without labels."""
    created = Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=tmp_path
    )
    with created:
        for name in LLMS:
            created.register(name)
        yield created


def test_counts_equal_a_fold_by_one_thread(installation: Installation) -> None:
    """Duplicates, in any order, two of three learners killed: every sum is exact, and a refold agrees."""
    found = refold(installation, pieces=PIECES)
    with transaction(installation.engine) as session:
        before = CellCounts(session).read(installation_map(installation), LLMS, n_cells=5)
        CellCounts(session).refold()
        after = CellCounts(session).read(installation_map(installation), LLMS, n_cells=5)

    assert found.pieces == PIECES
    assert found.counted == found.expected
    assert (before.errors.tolist(), before.labels.tolist()) == (after.errors.tolist(), after.labels.tolist())


def installation_map(installation: Installation) -> str:
    """Give the version of the map in force."""
    with transaction(installation.engine) as session:
        version = ClusterMaps(session).active_version()
    assert version is not None
    return version
