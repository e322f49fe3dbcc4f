"""Writes small outcome folders, good ones and broken ones."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

Row = dict[str, Any]
#: Two prompts, two LLMs, costs recorded.
PROMPTS: list[Row] = [
    {"prompt_id": "p1", "prompt": "one", "task": "t", "domain": "d", "split": "train"},
    {"prompt_id": "p2", "prompt": "two", "task": "t", "domain": "d", "split": "test"},
]
OUTCOMES: list[Row] = [
    {"prompt_id": "p1", "model": "b", "score": 1.0, "input_tokens": 10, "output_tokens": 4, "cost_usd": 0.2},
    {"prompt_id": "p1", "model": "a", "score": 0.5, "input_tokens": 10, "output_tokens": 2, "cost_usd": 0.1},
    {"prompt_id": "p2", "model": "b", "score": 0.0, "input_tokens": 20, "output_tokens": 6, "cost_usd": 0.4},
    {"prompt_id": "p2", "model": "a", "score": 1.0, "input_tokens": 20, "output_tokens": 8, "cost_usd": 0.3},
]
MODELS: list[Row] = [
    {"model": "a", "in_usd_per_mtok": 1.0, "out_usd_per_mtok": 2.0},
    {"model": "b", "in_usd_per_mtok": 3.0, "out_usd_per_mtok": 5.0},
]


def write_folder(
    folder: Path,
    *,
    prompts: list[Row] | pa.Table | None = PROMPTS,
    outcomes: list[Row] | pa.Table | None = OUTCOMES,
    models: list[Row] | None = MODELS,
) -> Path:
    """Write an outcome folder; ``None`` leaves a file out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("prompts", prompts), ("outcomes", outcomes)):
        if rows is not None:
            table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
            parquet.write_table(table, folder / f"{name}.parquet")
    if models is not None:
        with (folder / "models.csv").open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, fieldnames=list(models[0]))
            writer.writeheader()
            writer.writerows(models)
    return folder


def changed(rows: list[Row], row: int, **values: object) -> list[Row]:
    """Copy rows with some values of one of them changed."""
    copy = [dict(one) for one in rows]
    copy[row].update(values)
    return copy


def without(rows: list[Row], *columns: str) -> list[Row]:
    """Copy rows without some columns."""
    return [{key: value for key, value in one.items() if key not in columns} for one in rows]


def write_topics(folder: Path, *, n_llms: int = 6, per_topic: int = 60, seed: int = 0) -> Path:
    """Write a set in which each LLM is good at some of four topics; the dear ones at more of them.

    Prompts name their topic, so an embedder that counts words can tell topics apart. LLM k costs k + 1.
    """
    rng = np.random.default_rng(seed)
    topics = ("algebra", "botany", "cooking", "dance")
    prompts, outcomes = [], []
    skill = rng.uniform(0.1, 0.9, (n_llms, len(topics))) + np.linspace(-0.1, 0.1, n_llms)[:, None]
    for number in range(per_topic * len(topics)):
        topic = number % len(topics)
        split = ("train", "train", "val", "val", "test")[(number // len(topics)) % 5]
        name = topics[topic]
        prompts.append(
            {
                "prompt_id": f"p{number}",
                "prompt": f"{name} {number}",
                "task": name,
                "domain": name,
                "split": split,
            }
        )
        for llm in range(n_llms):
            right = float(rng.random() < skill[llm, topic])
            outcomes.append(
                {
                    "prompt_id": f"p{number}",
                    "model": f"llm-{llm}",
                    "score": right,
                    "cost_usd": 1e-4 * (llm + 1),
                }
            )
    models = [
        {"model": f"llm-{llm}", "in_usd_per_mtok": 1.0, "out_usd_per_mtok": 1.0} for llm in range(n_llms)
    ]
    return write_folder(folder, prompts=prompts, outcomes=outcomes, models=models)
