import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from static_artifacts import write_static_artifact

from routing.clusters.kmeans import fit_cluster_map
from routing.llms import LLM, Price
from routing.policies import Lagrangian, Policy, Weighted
from routing.snapshot import Snapshot, Versions
from workers.batches.lake import Rule, assign_lake
from workers.batches.tables import Columns
from workers.embedding.loading import load_embedder
from workers.errors import UsageError

TEXTS = [f"what {colour} {fruit}" for colour in ("red", "green", "blue") for fruit in ("apple", "pear")]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'uniroute[ray]'"
)


def make_rule(folder: Path, policy: Policy) -> Rule:
    """A rule over two LLMs and six kinds of prompts, with an embedder of a few kilobytes."""
    artifact = write_static_artifact(folder / "embedders")
    embedder = load_embedder(artifact)
    snapshot = Snapshot(
        cluster_map=fit_cluster_map(
            embedder.encode(TEXTS), fingerprint=embedder.fingerprint, sizes=(2, 3), seed=0
        ),
        llms=tuple(
            LLM(name=name, price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd))
            for name, usd in (("cheap", 1.0), ("dear", 9.0))
        ),
        error_rates=np.array([[0.5, 0.1], [0.2, 0.1], [0.5, 0.1], [0.2, 0.1], [0.3, 0.2]]),
        output_tokens=np.array([100.0, 100.0]),
        versions=Versions(error_rates="1", prices="1"),
    )
    return Rule(snapshot, policy, partial(load_embedder, artifact), Columns.read([]))


def write_lake(folder: Path, *, rows: int) -> Path:
    """Two files of numbered prompts, one in folders below, and drafts; each hundredth row has no prompt."""
    (folder / "year=2026" / "month=1").mkdir(parents=True)
    (folder / "_delta_log").mkdir()
    places = (folder, folder / "year=2026" / "month=1")
    for draft in (folder / "_delta_log" / "0.parquet", folder / ".1.parquet"):
        parquet.write_table(pa.table({"custom_id": ["7"], "prompt": ["what is this"]}), draft)
    for file in range(2):
        numbers = range(file * rows, (file + 1) * rows)
        table = {
            "custom_id": [str(number) for number in numbers],
            "prompt": [None if number % 100 == 7 else TEXTS[number % 6] for number in numbers],
        }
        parquet.write_table(pa.table(table), places[file] / "part.parquet")
    return folder


def read_lake(folder: Path) -> list[dict[str, Any]]:
    """All rows of a result, in the order of their ids."""
    rows: list[dict[str, Any]] = []
    for path in folder.rglob("*.parquet"):
        rows += parquet.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: int(row["custom_id"]))


def test_each_row_gets_the_llm_that_its_prompt_would(tmp_path: Path) -> None:
    """Rows of one text are decided alike, those without a prompt not at all; each row comes out once."""
    lake, rule = write_lake(tmp_path / "lake", rows=1_500), make_rule(tmp_path, Lagrangian(300.0))

    counts = assign_lake(lake, tmp_path / "out", rule, engine="local")

    rows = read_lake(tmp_path / "out")
    assert (tmp_path / "out" / "year=2026" / "month=1" / "part.parquet").exists()
    assert [int(row["custom_id"]) for row in rows] == list(range(3_000))
    assert counts[""] == sum(row["llm"] is None for row in rows) == 30
    assert sum(counts.values()) == 3_000
    for kind in range(6):
        alike = [row for number, row in enumerate(rows) if number % 6 == kind and number % 100 != 7]
        assert len({(row["llm"], row["predicted_error"], row["predicted_cost_usd"]) for row in alike}) == 1


@needs_ray
@pytest.mark.filterwarnings("default")  # Ray warns of its own options when it sends them to its workers
def test_ray_decides_as_this_machine_does(tmp_path: Path) -> None:
    """Bit for bit, in whatever blocks the rows came."""
    import ray  # noqa: PLC0415  # only where it is installed

    lake, rule = write_lake(tmp_path / "lake", rows=500), make_rule(tmp_path, Lagrangian(300.0))
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        assign_lake(lake, tmp_path / "ray", rule, engine="ray")
    finally:
        ray.shutdown()
    assign_lake(lake, tmp_path / "local", rule, engine="local")

    assert read_lake(tmp_path / "ray") == read_lake(tmp_path / "local")


def test_a_policy_that_draws_lots_is_refused(tmp_path: Path) -> None:
    """A row's result would depend on the rows beside it, and on the engine."""
    lake, rule = write_lake(tmp_path / "lake", rows=5), make_rule(tmp_path, Weighted({"cheap": 1, "dear": 1}))

    with pytest.raises(UsageError, match="draws lots"):
        assign_lake(lake, tmp_path / "out", rule, engine="local")


def test_folders_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """One without Parquet to read, and one to write that is not empty."""
    rule = make_rule(tmp_path, Lagrangian(1.0))
    lake = write_lake(tmp_path / "lake", rows=5)

    with pytest.raises(UsageError, match=r"no \.parquet"):
        assign_lake(tmp_path / "embedders", tmp_path / "out", rule, engine="local")
    with pytest.raises(UsageError, match="not empty"):
        assign_lake(lake, lake, rule, engine="local")
