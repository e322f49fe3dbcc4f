"""Recorded outcomes played back: the score and the cost that were recorded, prompt by prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from routing.costs import call_cost
from routing.errors import UnknownLLMError
from workers.errors import UsageError
from workers.local.simulated.playback import ASSUMED_OUTPUT_TOKENS, PlaybackSource

PROMPTS = {
    "prompt_id": ["p1", "p2", "p3", "p4"],
    "prompt": ["What is a quark?", "Name a river.", "Sing a song.", "Name a river."],
    "task": ["physics", "geography", "music", "geography"],
    "domain": ["science", "places", "arts", "places"],
    "split": ["train", "val", "test", "test"],
}
OUTCOMES: Mapping[str, Sequence[object]] = {
    "prompt_id": ["p1", "p2", "p3", "p4"] * 2,
    "model": ["big"] * 4 + ["small"] * 4,
    "score": [1.0, 0.75, 0.0, 1.0, 0.0, 0.1, 1.0, 0.5],
    "input_tokens": [10, 20, 30, 40] * 2,
    "output_tokens": [100, 50, 10, 20, 5, 5, 5, 5],
}
PRICES = "model,in_usd_per_mtok,out_usd_per_mtok\nbig,2,8\nsmall,0.5,1\n"


def write_folder(
    folder: Path, *, outcomes: Mapping[str, Sequence[object]] | None = None, models: str = PRICES
) -> Path:
    """Write an outcome folder of four prompts and two LLMs."""
    parquet.write_table(pa.table(PROMPTS), folder / "prompts.parquet")
    parquet.write_table(pa.table(dict(outcomes or OUTCOMES)), folder / "outcomes.parquet")
    (folder / "models.csv").write_text(models, encoding="utf-8")
    return folder


def test_an_answer_carries_what_was_recorded(tmp_path: Path) -> None:
    """Score .75, 20 tokens in and 50 out at 2 and 8 USD per million: 440 millionths of a USD."""
    source = PlaybackSource.read(write_folder(tmp_path))
    outcome = source.answer("big", "p2", "Name a river.")
    big = source.llms[0]

    assert (outcome.score, outcome.input_tokens, outcome.output_tokens) == (0.75, 20, 50)
    assert source.grade("p2", outcome.text) == 0.75
    assert json.loads(outcome.text)["simulated"] is True
    assert call_cost(big.price, input_tokens=20, output_tokens=50) == pytest.approx(440e-6)
    assert source.truth(["p2"]).costs_usd[0] == pytest.approx([440e-6, 15e-6])
    assert source.truth(["p2"]).scores[0] == pytest.approx([0.75, 0.1])


def test_llms_come_with_their_prices_and_the_word_simulated(tmp_path: Path) -> None:
    """Sorted by name; expected output tokens are the recorded mean, (100 + 50 + 10 + 20) / 4."""
    big, small = PlaybackSource.read(write_folder(tmp_path)).llms

    assert (big.name, small.name) == ("big", "small")
    assert big.simulated
    assert small.simulated
    assert (big.price.input_usd_per_mtok, big.price.output_usd_per_mtok) == (2.0, 8.0)
    assert big.expected_output_tokens == 45.0


def test_tokens_follow_the_recorded_cost(tmp_path: Path) -> None:
    """A cost of 1,000 millionths, less 10 x 2 for the prompt, buys (1000 - 20) / 8 = 122.5 tokens."""
    costs = [1000e-6, 440e-6, 140e-6, 240e-6, 10e-6, 15e-6, 20e-6, 25e-6]
    source = PlaybackSource.read(write_folder(tmp_path, outcomes={**OUTCOMES, "cost_usd": costs}))

    assert source.answer("big", "p1", "").output_tokens == 122
    assert source.answer("big", "p2", "").output_tokens == 50
    assert source.cost_gap() == pytest.approx(4e-6)  # half a token of 8 millionths


def test_unrecorded_tokens_are_assumed_and_said_so(tmp_path: Path) -> None:
    """Without token counts, 16 characters are 4 tokens in, and every answer has the same tokens out."""
    outcomes = {key: OUTCOMES[key] for key in ("prompt_id", "model", "score")}
    source = PlaybackSource.read(write_folder(tmp_path, outcomes=outcomes))
    outcome = source.answer("small", "p1", "")

    assert (outcome.input_tokens, outcome.output_tokens) == (4, ASSUMED_OUTPUT_TOKENS)
    assert any("150" in note for note in source.notes)
    assert any("four characters" in note for note in source.notes)


def test_the_splits_are_the_folders_own(tmp_path: Path) -> None:
    """Map from train, labels from val, traffic from test; fewer than asked for where there are fewer."""
    source = PlaybackSource.read(write_folder(tmp_path))

    assert [prompt.prompt_id for prompt in source.prompts("train", 9)] == ["p1"]
    assert [prompt.prompt_id for prompt in source.prompts("label", 9)] == ["p2"]
    assert {prompt.prompt_id for prompt in source.prompts("traffic", 9)} == {"p3", "p4"}
    assert len(source.prompts("traffic", 1)) == 1
    assert source.prompts("traffic", 1)[0].family in {"arts", "places"}


def test_prompts_without_every_score_are_left_out(tmp_path: Path) -> None:
    """An LLM that never saw a prompt cannot answer it, so nobody is asked."""
    fewer = {key: values[:-1] for key, values in OUTCOMES.items()}
    source = PlaybackSource.read(write_folder(tmp_path, outcomes=fewer))

    assert [prompt.prompt_id for prompt in source.prompts("traffic", 9)] == ["p3"]
    assert not source.knows("p4")
    assert source.answer("big", "p4", "x").score == 0.0


@pytest.mark.parametrize(
    "reply",
    ["1.0", "", "[" * 100_000, '{"prompt_id": "p3", "recorded_score": 1.0}', '{"prompt_id": "p2"}',
     '{"prompt_id": "p2", "recorded_score": 7.0}', '{"prompt_id": "p2", "recorded_score": NaN}'],
)  # fmt: skip
def test_other_replies_get_nothing(tmp_path: Path, reply: str) -> None:
    """Only a reply of this playback to this prompt has a score."""
    assert PlaybackSource.read(write_folder(tmp_path)).grade("p2", reply) == 0.0


def test_a_text_is_found_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    """Of two prompts with one text the first is taken."""
    source = PlaybackSource.read(write_folder(tmp_path))

    assert source.find("Name a river.") == "p2"
    assert source.find("Name a lake.") is None
    with pytest.raises(UnknownLLMError):
        source.answer("medium", "p1", "")


def test_a_folder_without_prices_is_refused(tmp_path: Path) -> None:
    """An unknown price is never 0: the error names the columns to fill."""
    folder = write_folder(tmp_path, models="model\nbig\nsmall\n")

    with pytest.raises(UsageError, match="in_usd_per_mtok"):
        PlaybackSource.read(folder)


def test_the_late_llm_is_a_bargain(tmp_path: Path) -> None:
    """It is never the best one, and of the rest the one furthest above the line from cheapest to best."""
    assert PlaybackSource.read(write_folder(tmp_path)).late_llm == "small"


@pytest.mark.outcomes
@pytest.mark.parametrize(("name", "best", "gap"), [("mmlupro28", 0.7024, 1e-12), ("llmrouter9", 0.6197, 0.0)])
def test_real_outcomes_are_played_back(outcomes_dir: Path, name: str, best: float, gap: float) -> None:
    """Every score comes back exactly; costs equal the recorded ones; the best mean is the known one."""
    source = PlaybackSource.read(outcomes_dir / name)
    prompts = [prompt for split in ("train", "label", "traffic") for prompt in source.prompts(split, 20_000)]
    truth = source.truth([prompt.prompt_id for prompt in prompts])

    assert truth.scores.mean(axis=0).max() == pytest.approx(best, abs=5e-5)
    assert source.cost_gap() <= gap
    assert np.all(truth.costs_usd > 0)
    for row, prompt in list(enumerate(prompts))[::97]:
        for column, llm in enumerate(source.llms):
            outcome = source.answer(llm.name, prompt.prompt_id, prompt.text)
            assert source.grade(prompt.prompt_id, outcome.text) == truth.scores[row, column]
