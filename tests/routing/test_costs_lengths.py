"""The length model: what made the answers is found again, sums come out right, batches change no bit."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.costs import LengthModel, Usage, count_usage, fit_lengths
from routing.costs.lengths import calibration
from routing.errors import InvalidInputError

RNG = np.random.default_rng(5)


def one_llm(*, level: float = 5.0, slope: float = 0.0, spread: float = 0.5) -> LengthModel:
    """One LLM, one cell."""
    return LengthModel(
        levels=np.array([level]),
        slopes=np.array([slope]),
        offsets=np.zeros((1, 1)),
        spreads=np.array([spread]),
        smears=np.exp(np.array([spread]) ** 2 / 2),
    )


WHOLE = np.ones((1, 1), dtype=np.float32)


def draw_usage(
    n: int, *, n_cells: int = 4, n_llms: int = 3
) -> tuple[Usage, np.ndarray, np.ndarray, np.ndarray]:
    """Replies whose log length is 3 + llm + .3 log(1 + input) + .4 (cell - 1.5) + .5 noise."""
    cells, llms = RNG.integers(0, n_cells, (n, 1)), RNG.integers(0, n_llms, n)
    tokens = np.rint(RNG.lognormal(5, 1, n))
    logs = 3 + llms + 0.3 * np.log1p(tokens) + 0.4 * (cells[:, 0] - 1.5) + RNG.normal(0, 0.5, n)
    outputs = np.exp(logs) - 1
    usage = count_usage(cells, llms, tokens, outputs.clip(0), n_cells=n_cells, n_llms=n_llms)
    return usage, cells, llms, tokens


def test_usage_by_hand() -> None:
    """Two replies in cell 1 of LLM 0, with e - 1 and e^2 - 1 tokens: y is 1 and 2, and z is 0."""
    usage = count_usage(
        np.array([[1], [1]]),
        np.array([0, 0]),
        np.zeros(2),
        np.array([math.e - 1, math.e**2 - 1]),
        n_cells=2,
        n_llms=1,
    )

    assert usage.replies.ravel().tolist() == [0, 2]
    assert usage.y.ravel() == pytest.approx([0, 3])
    assert usage.yy.ravel() == pytest.approx([0, 5])
    assert usage.zz.ravel().tolist() == [0, 0]
    assert usage.tokens.ravel() == pytest.approx([0, math.e + math.e**2 - 2])


def test_usages_add_up() -> None:
    """Blocks of replies can be counted apart and added."""
    cells, llms, tokens = RNG.integers(0, 3, (40, 2)), RNG.integers(0, 2, 40), RNG.random(40) * 100
    halves = [
        count_usage(cells[rows], llms[rows], tokens[rows], tokens[rows], n_cells=3, n_llms=2)
        for rows in (slice(0, 15), slice(15, 40))
    ]
    whole = count_usage(cells, llms, tokens, tokens, n_cells=3, n_llms=2)

    assert (halves[0] + halves[1]).yz == pytest.approx(whole.yz)
    assert (halves[0] + halves[1]).replies.tolist() == whole.replies.tolist()


def test_mean_of_a_log_normal() -> None:
    """exp(5 + .5^2 / 2) = 168.174 tokens are expected, and at 95 % exp(5 + 1.64485 x .5) - 1 = 336.79."""
    model = one_llm()

    assert model.expected_tokens(WHOLE, np.zeros(1))[0, 0] == pytest.approx(168.174, abs=0.001)
    assert model.quantile_tokens(WHOLE, np.zeros(1))[0, 0] == pytest.approx(336.79, abs=0.01)


@pytest.mark.parametrize("most", [1.0, 100.0, 168.0, 1000.0, 1e9, math.inf])
def test_capped_mean_is_the_mean_of_the_lesser(most: float) -> None:
    """E[min(T, m)] agrees with 400,000 draws within .5 %."""
    draws = np.minimum(np.random.default_rng(0).lognormal(5, 0.5, 400_000), most)

    found = one_llm().expected_tokens(WHOLE, np.zeros(1), most=np.array([most]))[0, 0]

    assert found == pytest.approx(draws.mean(), rel=0.005)
    assert found <= most


def test_what_made_the_lengths_is_found_again() -> None:
    """From 30,000 replies: slopes of .3, cells .4 apart, spreads of .5, LLMs 1 apart."""
    usage, *_ = draw_usage(30_000)

    model = fit_lengths(usage, prior_tokens=np.full(3, 100.0), sizes=(4,))

    assert model.slopes == pytest.approx([0.3] * 3, abs=0.03)
    assert np.diff(model.offsets, axis=0) == pytest.approx(np.full((3, 3), 0.4), abs=0.05)
    assert model.spreads == pytest.approx([0.5] * 3, abs=0.02)
    assert np.diff(model.levels) == pytest.approx([1.0, 1.0], abs=0.2)


def test_predicted_tokens_sum_to_the_actual() -> None:
    """Per LLM, actual over predicted is within 2 % on the replies it was fitted on, and 5 % on others."""
    usage, cells, llms, tokens = draw_usage(20_000)
    model = fit_lengths(usage, prior_tokens=np.full(3, 100.0), sizes=(4,))
    fresh, fresh_cells, fresh_llms, fresh_tokens = draw_usage(20_000)

    for replies, at, of, inputs, tolerance in (
        (usage, cells, llms, tokens, 0.02),
        (fresh, fresh_cells, fresh_llms, fresh_tokens, 0.05),
    ):
        expected = model.expected_tokens(np.eye(4, dtype=np.float32)[at[:, 0]], inputs)
        predicted = np.bincount(of, expected[np.arange(len(of)), of])
        ratios = calibration(replies.tokens.sum(axis=0), predicted)
        assert ratios == pytest.approx(np.ones(3), abs=tolerance)


def test_no_replies_give_the_prior() -> None:
    """Before any reply an LLM is expected to answer with its prior tokens, a newcomer among others too."""
    nothing = Usage(*(np.zeros((4, 3)) for _ in range(7)))
    usage, *_ = draw_usage(3000, n_llms=2)
    joined = Usage(*(np.column_stack([getattr(usage, name), np.zeros(4)]) for name in usage.__slots__))
    evenly = np.full((1, 4), 0.25, dtype=np.float32)

    alone = fit_lengths(nothing, prior_tokens=np.array([50.0, 100.0, 400.0]), sizes=(4,))
    among = fit_lengths(joined, prior_tokens=np.array([100.0, 100.0, 400.0]), sizes=(4,))

    assert alone.expected_tokens(evenly, np.array([100.0]))[0] == pytest.approx([50, 100, 400], rel=0.03)
    mean_input = np.array([np.expm1(usage.z.sum() / usage.replies.sum())])
    assert among.expected_tokens(evenly, mean_input)[0, 2] == pytest.approx(400, rel=0.03)


def test_thin_cells_are_shrunk() -> None:
    """One reply ten times as long as the rest moves its cell by far less than a factor of ten."""
    cells = np.zeros((201, 1), dtype=np.int64)
    cells[200] = 1
    outputs = RNG.lognormal(4, 0.3, 201)
    outputs[200] = math.exp(4) * 10
    usage = count_usage(cells, np.zeros(201, dtype=np.int64), np.full(201, 9.0), outputs, n_cells=2, n_llms=1)

    model = fit_lengths(usage, prior_tokens=np.array([54.0]), sizes=(2,))

    assert 0 <= model.offsets[1, 0] < math.log(10) * 0.75


@given(rows=st.lists(st.integers(0, 99), min_size=1, max_size=60))
@settings(max_examples=50)
def test_batch_changes_no_bit(rows: list[int]) -> None:
    """Expected tokens of a prompt are the same bits alone and in any batch, capped or not."""
    rng = np.random.default_rng(1)
    model = LengthModel(
        levels=rng.normal(5, 1, 9),
        slopes=rng.normal(0.2, 0.1, 9),
        offsets=rng.normal(0, 0.5, (13, 9)),
        spreads=rng.uniform(0.3, 1, 9),
        smears=rng.uniform(1, 2, 9),
    )
    weights = np.rint(rng.dirichlet(np.ones(13), 100) * 2**24).astype(np.float32) * np.float32(2**-24)
    tokens, most = rng.integers(1, 900, 100).astype(float), rng.choice([50.0, 500.0, np.inf], 100)
    picked = np.array(rows)

    for limit, some in ((None, None), (most, most[picked])):
        whole = model.expected_tokens(weights, tokens, most=limit)[picked]
        part = model.expected_tokens(weights[picked], tokens[picked], most=some)
        assert whole.tobytes() == part.tobytes()


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_impossible_usage_is_refused(bad: float) -> None:
    """Token counts are finite and at least 0."""
    with pytest.raises(InvalidInputError, match="output_tokens"):
        count_usage(
            np.zeros((1, 1), dtype=np.int32),
            np.zeros(1, dtype=np.int64),
            np.ones(1),
            np.array([bad]),
            n_cells=1,
            n_llms=1,
        )


def test_misshapen_usage_is_refused() -> None:
    """The prior and the sizes must fit what was counted."""
    usage, *_ = draw_usage(10)

    with pytest.raises(InvalidInputError, match="usage"):
        fit_lengths(usage, prior_tokens=np.ones(2), sizes=(4,))
    with pytest.raises(InvalidInputError, match="quantile"):
        one_llm().quantile_tokens(WHOLE, np.zeros(1), quantile=1.0)


@pytest.mark.outcomes
def test_recorded_lengths_are_calibrated(outcomes_dir: Path) -> None:
    """Learned from val by subject, actual over predicted is in .9..1.1 on test for each of 28 LLMs."""
    parquet = pytest.importorskip("pyarrow.parquet")
    prompts = parquet.read_table(outcomes_dir / "mmlupro28" / "prompts.parquet").to_pydict()
    replies = parquet.read_table(outcomes_dir / "mmlupro28" / "outcomes.parquet").to_pydict()
    subjects = {name: cell for cell, name in enumerate(sorted(set(prompts["domain"])))}
    about = {
        prompt: (subjects[domain], split)
        for prompt, domain, split in zip(
            prompts["prompt_id"], prompts["domain"], prompts["split"], strict=True
        )
    }
    names = sorted(set(replies["model"]))
    cells = np.array([[about[prompt][0]] for prompt in replies["prompt_id"]])
    splits = np.array([about[prompt][1] for prompt in replies["prompt_id"]])
    llms = np.searchsorted(names, replies["model"])
    inputs, outputs = np.array(replies["input_tokens"], float), np.array(replies["output_tokens"], float)
    val, test = splits == "val", splits == "test"
    usage = count_usage(
        cells[val], llms[val], inputs[val], outputs[val], n_cells=len(subjects), n_llms=len(names)
    )

    model = fit_lengths(usage, prior_tokens=np.full(len(names), 256.0), sizes=(len(subjects),))

    weights = np.eye(len(subjects), dtype=np.float32)[cells[test, 0]]
    expected = model.expected_tokens(weights, inputs[test])[np.arange(test.sum()), llms[test]]
    ratios = calibration(np.bincount(llms[test], outputs[test]), np.bincount(llms[test], expected))
    assert 0.9 <= ratios.min() <= ratios.max() <= 1.1


def test_prompts_of_one_length_tell_no_slope() -> None:
    """What their lengths scatter by is rounding: the slope is 0, however the sums were added up."""
    rng = np.random.default_rng(0)
    cells, llms = rng.integers(2, size=(60, 1)).astype(np.int32), rng.integers(2, size=60)
    outputs = rng.integers(1, 500, size=60).astype(np.float64)
    usage = count_usage(cells, llms, np.full(60, 20.0), outputs, n_cells=2, n_llms=2)

    model = fit_lengths(usage, prior_tokens=np.array([100.0, 100.0]), sizes=(2,))

    assert model.slopes.tolist() == [0.0, 0.0]
