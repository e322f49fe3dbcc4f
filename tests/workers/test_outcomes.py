"""Folders of recorded outcomes: what is read from good ones, and the sentence each broken one gets."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from outcome_folders import MODELS, OUTCOMES, PROMPTS, changed, without, write_folder

from workers.errors import UsageError
from workers.outcomes import BadOutcomesError, read_outcomes


def test_a_folder_becomes_matrices(tmp_path: Path) -> None:
    """Prompts in file order, LLMs by name, whatever the order of the rows."""
    found = read_outcomes(write_folder(tmp_path / "tiny"))

    assert found.name == "tiny"
    assert found.prompt_ids == ("p1", "p2")
    assert found.texts == ("one", "two")
    assert found.splits.tolist() == ["train", "test"]
    assert found.llms == ("a", "b")
    assert found.scores.tolist() == [[0.5, 1.0], [1.0, 0.0]]
    assert found.input_tokens.tolist() == [[10, 10], [20, 20]]
    assert found.output_tokens.tolist() == [[2, 4], [8, 6]]
    assert found.costs_usd.tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert found.cost_source == "recorded USD"
    assert found.prices["b"].output_usd_per_mtok == 5.0
    assert found.complete.all()


def test_costs_come_from_prices_and_tokens_where_none_is_recorded(tmp_path: Path) -> None:
    """LLM a on p1: 10 tokens in at 1 USD, 2 out at 2 USD per million."""
    found = read_outcomes(write_folder(tmp_path, outcomes=without(OUTCOMES, "cost_usd")))

    assert found.cost_source == "list price"
    assert found.costs_usd == pytest.approx(np.array([[14e-6, 50e-6], [36e-6, 90e-6]]))


def test_without_output_tokens_the_price_alone_is_the_cost(tmp_path: Path) -> None:
    """Input and output price of 1,000 tokens each: the same for every prompt of an LLM."""
    found = read_outcomes(write_folder(tmp_path, outcomes=without(OUTCOMES, "cost_usd", "output_tokens")))

    assert found.cost_source == "list price"
    assert found.costs_usd == pytest.approx(np.array([[0.003, 0.008], [0.003, 0.008]]))


def test_without_any_price_every_call_costs_one(tmp_path: Path) -> None:
    """Unit costs, and the set says so."""
    folder = write_folder(
        tmp_path,
        outcomes=without(OUTCOMES, "cost_usd", "input_tokens"),
        models=without(MODELS, "in_usd_per_mtok", "out_usd_per_mtok"),
    )

    found = read_outcomes(folder)

    assert found.cost_source == "unit costs"
    assert found.costs_usd.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert np.isnan(found.input_tokens).all()
    assert found.prices == {}


def test_a_cost_that_is_missing_here_and_there_is_worked_out(tmp_path: Path) -> None:
    """USD where recorded, tokens x price where not."""
    found = read_outcomes(write_folder(tmp_path, outcomes=changed(OUTCOMES, 1, cost_usd=None)))

    assert found.cost_source == "recorded USD"
    assert found.costs_usd == pytest.approx(np.array([[14e-6, 0.2], [0.3, 0.4]]))


def test_a_missing_pair_is_nan(tmp_path: Path) -> None:
    """An LLM that did not answer a prompt has no row; the prompt is not complete."""
    found = read_outcomes(write_folder(tmp_path, outcomes=OUTCOMES[:3]))

    assert np.isnan(found.scores[1, 0])
    assert found.complete.tolist() == [True, False]


def test_an_absent_task_is_no_error(tmp_path: Path) -> None:
    """Tasks and domains are for reading, not for routing."""
    found = read_outcomes(write_folder(tmp_path, prompts=changed(PROMPTS, 0, task=None)))

    assert found.tasks == ("", "t")


BAD: dict[str, tuple[dict[str, Any], str, str | None, int | None, str]] = {
    "no prompts file": ({"prompts": None}, "prompts.parquet", None, None, "no such file"),
    "no outcomes file": ({"outcomes": None}, "outcomes.parquet", None, None, "no such file"),
    "no models file": ({"models": None}, "models.csv", None, None, "no such file"),
    "no split column": (
        {"prompts": without(PROMPTS, "split")},
        "prompts.parquet",
        "split",
        None,
        "missing; there are: prompt_id, prompt, task, domain",
    ),
    "no score column": (
        {"outcomes": without(OUTCOMES, "score")},
        "outcomes.parquet",
        "score",
        None,
        "missing",
    ),
    "no model column": (
        {"models": [{"name": "a"}]},
        "models.csv",
        "model",
        None,
        "missing",
    ),
    "no rows": (
        {"prompts": pa.Table.from_pylist(PROMPTS).slice(0, 0)},
        "prompts.parquet",
        None,
        None,
        "no rows",
    ),
    "an unknown split": (
        {"prompts": changed(PROMPTS, 1, split="dev")},
        "prompts.parquet",
        "split",
        2,
        "'dev' is not train, val or test",
    ),
    "a prompt id twice": (
        {"prompts": changed(PROMPTS, 1, prompt_id="p1")},
        "prompts.parquet",
        "prompt_id",
        2,
        "'p1' is there already, in row 1",
    ),
    "a prompt without text": (
        {"prompts": changed(PROMPTS, 0, prompt=None)},
        "prompts.parquet",
        "prompt",
        1,
        "is empty",
    ),
    "ids that are numbers": (
        {"prompts": [{**row, "prompt_id": number} for number, row in enumerate(PROMPTS)]},
        "prompts.parquet",
        "prompt_id",
        None,
        "int64, not text",
    ),
    "an unknown prompt id": (
        {"outcomes": changed(OUTCOMES, 2, prompt_id="p9")},
        "outcomes.parquet",
        "prompt_id",
        3,
        "'p9' is not a prompt of prompts.parquet",
    ),
    "a score above 1": (
        {"outcomes": changed(OUTCOMES, 1, score=1.5)},
        "outcomes.parquet",
        "score",
        2,
        "1.5 is not within 0..1",
    ),
    "a score below 0": (
        {"outcomes": changed(OUTCOMES, 3, score=-0.1)},
        "outcomes.parquet",
        "score",
        4,
        "-0.1 is not within 0..1",
    ),
    "a score that is NaN": (
        {"outcomes": changed(OUTCOMES, 0, score=float("nan"))},
        "outcomes.parquet",
        "score",
        1,
        "is empty; leave the row out",
    ),
    "a score that is null": (
        {"outcomes": changed(OUTCOMES, 0, score=None)},
        "outcomes.parquet",
        "score",
        1,
        "is empty; leave the row out",
    ),
    "scores that are text": (
        {"outcomes": [{**row, "score": "right"} for row in OUTCOMES]},
        "outcomes.parquet",
        "score",
        None,
        "not numbers",
    ),
    "a pair twice": (
        {"outcomes": changed(OUTCOMES, 3, prompt_id="p1")},
        "outcomes.parquet",
        "model",
        4,
        "prompt 'p1' and LLM 'a' are there already, in row 2",
    ),
    "an infinite cost": (
        {"outcomes": changed(OUTCOMES, 1, cost_usd=float("inf"))},
        "outcomes.parquet",
        "cost_usd",
        2,
        "inf is not at least 0 and finite",
    ),
    "an LLM without a row of prices": (
        {"models": MODELS[:1]},
        "models.csv",
        "model",
        None,
        "no row for LLM 'b'",
    ),
    "an LLM without a price": (
        {"models": changed(MODELS, 1, out_usd_per_mtok="")},
        "models.csv",
        "out_usd_per_mtok",
        2,
        "LLM 'b' has no price",
    ),
    "a price that is no number": (
        {"models": changed(MODELS, 0, in_usd_per_mtok="cheap")},
        "models.csv",
        "in_usd_per_mtok",
        1,
        "'cheap' is not a number",
    ),
    "a price below 0": (
        {"models": changed(MODELS, 0, in_usd_per_mtok=-1)},
        "models.csv",
        "in_usd_per_mtok",
        1,
        "-1 is not at least 0",
    ),
    "an LLM twice": (
        {"models": [*MODELS, MODELS[0]]},
        "models.csv",
        "model",
        3,
        "'a' is there already, in row 1",
    ),
    "a call of unknown cost": (
        {
            "outcomes": changed(OUTCOMES, 2, cost_usd=None),
            "models": without(MODELS, "in_usd_per_mtok"),
        },
        "outcomes.parquet",
        "cost_usd",
        3,
        "LLM 'b' has neither a cost here nor a price",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_gets_a_sentence_with_its_place(name: str, tmp_path: Path) -> None:
    """File, column and row (from 1, without the header) of what is wrong."""
    files, file, column, row, sentence = BAD[name]
    folder = write_folder(tmp_path, **files)

    with pytest.raises(BadOutcomesError) as caught:
        read_outcomes(folder)

    assert caught.value.file.name == file
    assert caught.value.column == column
    assert caught.value.row == row
    assert file in str(caught.value)
    assert sentence in str(caught.value)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    """Bytes that are no Parquet."""
    folder = write_folder(tmp_path)
    (folder / "outcomes.parquet").write_bytes(b"prompt_id,model,score\n")

    with pytest.raises(BadOutcomesError, match=r"outcomes.parquet: is not a Parquet file"):
        read_outcomes(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And what should be in it."""
    with pytest.raises(UsageError, match=r"nowhere is not a folder: name one that holds prompts\.parquet"):
        read_outcomes(tmp_path / "nowhere")


@pytest.mark.outcomes
@pytest.mark.parametrize(
    ("name", "shape", "cost_source", "best", "quality"),
    [
        ("mmlupro28", (12_002, 28), "recorded USD", "gemini-1.5-pro-002", 0.7024),
        ("llmrouter9", (5_989, 9), "list price", "llama-3.1-nemotron-51b-instruct", 0.6197),
    ],
)
def test_the_recorded_sets_are_what_their_readme_says(
    *, outcomes_dir: Path, name: str, shape: tuple[int, int], cost_source: str, best: str, quality: float
) -> None:
    """Size, best single LLM, its quality; for mmlupro28 also costs, oracle and mean."""
    found = read_outcomes(outcomes_dir / name)

    means, costs = found.scores.mean(axis=0), found.costs_usd.mean(axis=0)
    assert found.scores.shape == shape
    assert found.complete.all()
    assert found.cost_source == cost_source
    assert found.llms[int(means.argmax())] == best
    assert means.max() == pytest.approx(quality, abs=5e-5)
    if name == "mmlupro28":
        assert costs[means.argmax()] * 1_000 == pytest.approx(0.657, abs=5e-4)
        assert found.llms[int(costs.argmin())] == "Phi-3-mini-4k-instruct"
        assert means[costs.argmin()] == pytest.approx(0.4148, abs=5e-5)
        assert costs.min() * 1_000 == pytest.approx(0.0285, abs=5e-5)
        assert found.scores.max(axis=1).mean() == pytest.approx(0.9447, abs=5e-5)
        assert means.mean() == pytest.approx(0.3953, abs=5e-5)
