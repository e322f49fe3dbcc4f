"""Latencies: learned from replies, held to the pool's where there are few, and kept as a deadline."""

import math

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.costs import LatencyModel, LengthModel, fit_latencies, mixture_quantile, time_replies
from routing.decisions import Prompts, decide
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError, NoCandidateError
from routing.llms import LLM, Price
from routing.policies import Lagrangian
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions

#: Seconds of two LLMs: e^-2 (1 + tokens)^.5 and e^-4 (1 + tokens)^1, scattering by .3.
TRUE = LatencyModel(levels=np.array([-2.0, -4.0]), slopes=np.array([0.5, 1.0]), spreads=np.full(2, 0.3))


def draw_replies(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Replies of the two LLMs: columns, tokens, seconds."""
    rng = np.random.default_rng(seed)
    llms, tokens = rng.integers(0, 2, n), rng.integers(5, 2000, n).astype(float)
    logs = TRUE.levels[llms] + TRUE.slopes[llms] * np.log1p(tokens)
    return llms, tokens, np.exp(logs + 0.3 * rng.normal(size=n))


def test_quantile_by_hand() -> None:
    """99 tokens: e^-2 x 100^.5 = 1.353 s in the median; the 97.5 % quantile is e^(1.96 x .3) = 1.8 x."""
    assert TRUE.seconds_for(np.full(2, 99.0), quantile=0.5)[0] == pytest.approx(1.353, abs=2e-3)
    assert TRUE.seconds_for(np.full(2, 99.0), quantile=0.975)[0] == pytest.approx(1.353 * 1.8003, abs=4e-3)


def test_learned_quantile_covers_its_share() -> None:
    """Of fresh replies, 95 in 100 are no slower than the 95 % quantile."""
    model = fit_latencies(time_replies(*draw_replies(2000), n_llms=2))
    llms, tokens, seconds = draw_replies(4000, seed=1)
    rows = np.arange(4000)

    covered = seconds <= model.seconds_for(np.tile(tokens[:, None], (1, 2)))[rows, llms]

    assert covered.mean() == pytest.approx(0.95, abs=0.015)


def test_the_p95_of_many_calls_is_that_of_their_mixture() -> None:
    """Half of the calls hardly exceed 1 s, half 10 s: one in twenty of all is one in ten of the slow.

    At a spread of .1 those exceed 10 e^(.1 (1.2816 - 1.6449)) = 9.643 s; the mean of the two is 5.5 s. Nine
    in ten at 1 s, .5 wide: a draw of a million calls tells.
    """
    half = mixture_quantile(np.array([1.0, 10.0]), np.full(2, 0.1))
    seconds, spreads = np.array([*[1.0] * 9, 4.0]), np.full(10, 0.5)
    rng = np.random.default_rng(0)
    centres = np.log(seconds) - 1.6449 * spreads
    drawn = np.exp(centres + spreads * rng.normal(size=(100_000, 10)))

    assert half == pytest.approx(9.643, abs=1e-3)
    assert mixture_quantile(seconds, spreads) == pytest.approx(np.quantile(drawn, 0.95), rel=0.01)
    assert mixture_quantile(np.array([3.0]), np.array([0.2])) == pytest.approx(3.0)
    assert mixture_quantile(np.full(4, 3.0), np.zeros(4)) == pytest.approx(3.0)
    assert math.isnan(mixture_quantile(np.empty(0), np.empty(0)))


def test_timings_add_up() -> None:
    """Two halves fit what the whole fits."""
    llms, tokens, seconds = draw_replies(300)
    whole = time_replies(llms, tokens, seconds, n_llms=2)
    first = time_replies(llms[:100], tokens[:100], seconds[:100], n_llms=2)
    second = time_replies(llms[100:], tokens[100:], seconds[100:], n_llms=2)

    assert fit_latencies(first + second).levels == pytest.approx(fit_latencies(whole).levels)


def test_unseen_llm_is_taken_for_the_pool_but_less_surely() -> None:
    """An LLM without replies has a level between those that have some, and a wider spread."""
    llms, tokens, seconds = draw_replies(2000)
    model = fit_latencies(time_replies(llms, tokens, seconds, n_llms=3))

    medians = model.seconds_for(np.full(3, 300.0), quantile=0.5)

    assert min(medians[:2]) < medians[2] < max(medians[:2])
    assert model.spreads[2] > model.spreads[:2].max()


def test_nothing_seen_is_a_finite_guess() -> None:
    """Without a single reply, 100 tokens take about a second, more or less."""
    model = fit_latencies(time_replies(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), n_llms=1))

    assert 0.3 < model.seconds_for(np.array([100.0]), quantile=0.5)[0] < 3
    assert model.spreads[0] > 0.5


@pytest.mark.parametrize(
    ("field", "tokens", "seconds", "llm"),
    [
        ("seconds", 1.0, 0.0, 0),
        ("seconds", 1.0, math.nan, 0),
        ("output_tokens", -1.0, 1.0, 0),
        ("llms", 1.0, 1.0, 7),
    ],
)
def test_impossible_replies_are_refused(field: str, tokens: float, seconds: float, llm: int) -> None:
    """No time, NaN, negative lengths and unknown columns are named."""
    with pytest.raises(InvalidInputError, match=field):
        time_replies(np.array([llm]), np.array([tokens]), np.array([seconds]), n_llms=2)


MAP = ClusterMap(
    centroids=np.eye(2, dtype=np.float32),
    sizes=(2,),
    temperature=math.inf,
    fingerprint=Fingerprint(name="unit", dimension=2, precision="f32", max_length=1, checksum=""),
)
LENGTHS = LengthModel(
    levels=np.log1p([99.0, 99.0]),
    slopes=np.zeros(2),
    offsets=np.zeros((2, 2)),
    spreads=np.full(2, 0.4),
    smears=np.full(2, math.exp(0.08)),
)


def snapshot(lengths: LengthModel | None) -> Snapshot:
    """Two LLMs: the quick one is right less often."""
    price = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
    return Snapshot(
        cluster_map=MAP,
        llms=(LLM(name="good", price=price), LLM(name="quick", price=price)),
        error_rates=np.array([[0.1, 0.5], [0.1, 0.5]]),
        output_tokens=np.full(2, 99.0),
        versions=Versions(error_rates="1", prices="1"),
        lengths=lengths,
        latencies=LatencyModel(
            levels=np.array([-1.0, -4.0]), slopes=np.full(2, 0.5), spreads=np.full(2, 0.3)
        ),
    )


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_deadline_sends_to_the_quick_llm(lengths: LengthModel | None) -> None:
    """In 95 of 100 the good needs up to 6 s, the quick .3 s: 2 s suffice for that alone, .1 s for none."""
    prompts = Prompts(
        embeddings=np.eye(2, dtype=np.float32)[[0, 0, 1, 1]],
        input_tokens=np.full(4, 10.0),
        limits=[Limits(), Limits(max_seconds=60.0), Limits(max_seconds=2.0), Limits(max_seconds=0.1)],
    )

    decisions = decide(prompts, snapshot(lengths), Lagrangian(0.0), rng=np.random.default_rng(0))

    assert [decisions.llm(row) for row in range(4)] == ["good", "good", "quick", None]
    assert decisions.removed(2) == {"good": "deadline"}
    with pytest.raises(NoCandidateError, match="good: deadline; quick: deadline"):
        decisions.require_llm(3)


def test_shorter_answers_are_quicker() -> None:
    """A caller who allows 3 tokens gets no more seconds predicted than 3 tokens need."""
    long, short = (
        snapshot(LENGTHS).predict_seconds(np.eye(2, dtype=np.float32), np.full(2, 10.0), most)
        for most in (None, np.full(2, 3.0))
    )

    assert long is not None
    assert short is not None
    assert np.all(short < long)


def test_uncertain_length_widens_the_quantile_by_hand() -> None:
    """Variance .3^2 + .5^2 x .4^2 = .13: e^-1 x 100^.5 x e^(1.645 x .3606) = 6.66 s."""
    seconds = snapshot(LENGTHS).predict_seconds(np.eye(2, dtype=np.float32), np.full(2, 10.0))

    assert seconds is not None
    assert seconds[0, 0] == pytest.approx(6.657, abs=5e-3)


def test_answers_of_one_length_tell_no_slope() -> None:
    """What their lengths scatter by is rounding: every answer is taken to need the same time."""
    seconds = np.random.default_rng(0).uniform(0.1, 3.0, size=60)
    timings = time_replies(np.arange(60) % 2, np.full(60, 20.0), seconds, n_llms=2)

    assert fit_latencies(timings).slopes.tolist() == [0.0, 0.0]
