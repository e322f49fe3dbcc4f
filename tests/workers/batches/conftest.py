"""Fixtures of the tests of batches."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_benches import LLMS, Bench
from installations import Installation

from workers.batches.folders import Store
from workers.local.simulated.process import ServerProcess


@pytest.fixture
def bench(kafka_bootstrap: str, migrated_url: str, tmp_path: Path) -> Iterator[Bench]:
    """A bench without any process but the simulated LLMs."""
    with (
        ServerProcess.start(["--latency-scale", "0.02"]) as llms,
        Installation.create(
            kafka_bootstrap=kafka_bootstrap, database_url=migrated_url, folder=tmp_path
        ) as installation,
    ):
        for name, score, price in zip(LLMS, (0.5, 0.9), (0.1, 2.0), strict=True):
            installation.register(name, score=score, usd_per_mtok=price, base_url=llms.base_url)
        yield Bench(installation, Store(tmp_path / "batches"), tmp_path)
