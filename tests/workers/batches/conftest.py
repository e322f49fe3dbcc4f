"""Fixtures of the tests of batches."""

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from batch_benches import LLMS, Bench
from batch_desk import Desk, open_desk
from installations import Installation

from workers.batches.folders import Store
from workers.local.simulated.process import ServerProcess

if TYPE_CHECKING:
    from workers.local.postgres import Postgres


@pytest.fixture(scope="package")
def bench(kafka_bootstrap: str, postgres: "Postgres", migrated_template: str) -> Iterator[Bench]:
    """A bench that the tests of batches share, with an executor and a batcher at work."""
    name = f"test_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="uniroute-batches-") as path:
        folder = Path(path)
        with (
            ServerProcess.start(["--latency-scale", "0.02"]) as llms,
            Installation.create(
                kafka_bootstrap=kafka_bootstrap,
                database_url=postgres.create_database(name, template=migrated_template),
                folder=folder,
            ) as installation,
        ):
            for llm, score, price in zip(LLMS, (0.5, 0.9), (0.1, 2.0), strict=True):
                installation.register(llm, score=score, usd_per_mtok=price, base_url=llms.base_url)
            bench = Bench(installation, Store(folder / "batches"), folder, llms.url)
            bench.serve("executor")
            bench.serve("batcher")
            yield bench
    postgres.drop_database(name)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk whose lines are checked and embedded."""
    with open_desk(tmp_path) as desk:
        yield desk
