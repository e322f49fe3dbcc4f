"""The draw, to the letter, and the protocol on a small set whose answers are known."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from routing.errors import InvalidInputError
from routing.evaluation import RecordedOutcomes, Trial, draw_trials, evaluate_methods, mean_costs
from routing.evaluation.draws import count_unseen
from routing.evaluation.sizes import choose_clusters, set_clusters
from routing.evaluation.summaries import MethodSummary, MethodTrial, TrialResult, summarise_trials
from routing.quality.registry import ESTIMATORS
from routing.quality.shrunk import ShrunkCells
from routing.quality.uniroute import UniRouteKMeans
from routing.quality.zero import ZeroRouter

REFERENCES = {"best-single", "cheapest", "random", "zero", "oracle"}


def make_outcomes(*, n: int = 240, n_llms: int = 6, seed: int = 0) -> RecordedOutcomes:
    """Four topics as four directions; each LLM is good at some of them; LLM k costs k + 1."""
    rng = np.random.default_rng(seed)
    topics = np.arange(n) % 4
    embeddings = np.eye(4, 8)[topics] + 0.1 * rng.standard_normal((n, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    skill = rng.uniform(0.1, 0.9, (n_llms, 4))
    scores = (rng.random((n, n_llms)) < skill.T[topics]).astype(np.float64)
    rows = np.arange(n)
    return RecordedOutcomes(
        llms=tuple(f"llm-{llm}" for llm in range(n_llms)),
        embeddings=embeddings.astype(np.float32),
        scores=scores,
        costs=np.tile(np.arange(1.0, n_llms + 1), (n, 1)),
        train=rows[: n // 2],
        val=rows[n // 2 : 3 * n // 4],
        test=rows[3 * n // 4 :],
    )


class Knowing:
    """Not an estimate: predicts the recorded errors, found again by the prompts' embeddings."""

    def __init__(self, outcomes: RecordedOutcomes) -> None:
        self._outcomes = outcomes
        self._added: set[str] = set()

    @property
    def llms_(self) -> tuple[str, ...]:
        """What was added."""
        return tuple(sorted(self._added))

    def fit(self, X: ArrayLike, errors: ArrayLike, llms: Sequence[str]) -> Self:  # noqa: ARG002
        """Know everything already."""
        return self

    def add_llm(self, name: str, X: ArrayLike, errors: ArrayLike) -> Self:  # noqa: ARG002
        """Note the name."""
        self._added.add(name)
        return self

    def remove_llm(self, name: str) -> Self:
        """Forget the name."""
        self._added.remove(name)
        return self

    def predict_error(self, X: ArrayLike) -> NDArray[np.float64]:
        """Look the answers up."""
        known = {row.tobytes(): place for place, row in enumerate(self._outcomes.embeddings)}
        places = [known[row.tobytes()] for row in np.asarray(X)]
        columns = [self._outcomes.llms.index(name) for name in self.llms_]
        return 1.0 - self._outcomes.scores[np.ix_(places, columns)]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002
        """None."""
        return {}


def test_the_draw_is_the_published_one() -> None:
    """One generator; per trial a permutation of LLMs, then one of val prompts."""
    rng = np.random.default_rng(0)
    expected = [(np.sort(rng.permutation(28)[:9]), rng.permutation(2344)) for _ in range(3)]

    trials = draw_trials(28, 2344, trials=3, seed=0)

    for trial, (unseen, order) in zip(trials, expected, strict=True):
        assert trial.unseen.tolist() == unseen.tolist()
        assert trial.label_order.tolist() == order.tolist()
        assert sorted([*trial.unseen, *trial.known]) == list(range(28))


@pytest.mark.parametrize(
    ("n_llms", "share", "count"), [(28, 1 / 3, 9), (9, 0.33, 3), (9, 1 / 3, 3), (4, 0.33, 2), (10, 0.5, 5)]
)
def test_a_third_is_a_third_and_two_the_least(n_llms: int, share: float, count: int) -> None:
    """.33 of nine LLMs are three, as max(2, n // 3) has it."""
    assert count_unseen(n_llms, share) == count


@pytest.mark.parametrize("arguments", [{"unseen": 0.0}, {"unseen": 1.0}, {"unseen": 0.9}, {"trials": 0}])
def test_a_draw_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    """Shares outside (0, 1), no LLM left known, and no trials."""
    wanted = {"unseen": 1 / 3, "trials": 1, **arguments}
    with pytest.raises(InvalidInputError):
        draw_trials(2 if arguments.get("unseen") == 0.9 else 6, 10, seed=0, **wanted)


def test_more_trials_begin_with_the_same() -> None:
    """Trials are one stream: the first of forty are those of ten."""
    few, many = draw_trials(9, 50, trials=2, seed=7), draw_trials(9, 50, trials=4, seed=7)

    assert [trial.unseen.tolist() for trial in few] == [trial.unseen.tolist() for trial in many[:2]]


def test_a_router_that_knows_the_answers_is_the_oracle() -> None:
    """Predicted errors equal to the recorded ones, and costs per LLM: the oracle's numbers exactly."""
    outcomes = make_outcomes()
    (found,) = evaluate_methods(
        outcomes,
        {
            "uniroute-kmeans": lambda seed: UniRouteKMeans(n_clusters=4, seed=seed),
            "knows": lambda _: Knowing(outcomes),
        },
        labels=[20],
        trials=3,
        replicates=20,
    )

    assert found.methods["knows"].areas == pytest.approx(found.methods["oracle"].areas)
    assert found.methods["knows"].oracle_gap == pytest.approx(0.0)
    assert found.methods["oracle"].peak >= max(one.peak for one in found.methods.values())


def test_every_reference_row_is_always_there() -> None:
    """Best single, cheapest, random, zero and oracle, with and without an estimator of the name zero."""
    outcomes = make_outcomes()
    raw = {"uniroute-kmeans": ESTIMATORS["uniroute-kmeans"]}

    (alone,) = evaluate_methods(outcomes, raw, labels=[20], clusters=4, trials=2, replicates=5)
    (fitted,) = evaluate_methods(
        outcomes, {**raw, "zero": lambda _: ZeroRouter()}, labels=[20], clusters=4, trials=2, replicates=5
    )

    assert set(alone.methods) == {"uniroute-kmeans", *REFERENCES}
    assert set(fitted.methods) == set(alone.methods)
    assert fitted.methods["zero"].area == pytest.approx(alone.methods["zero"].area)
    assert alone.methods["uniroute-kmeans"].minus_uniroute == 0.0


def test_one_cluster_is_the_zero_router() -> None:
    """UniRoute with K = 1 and the ZeroRouter trace the same curve."""
    (found,) = evaluate_methods(
        make_outcomes(),
        {"uniroute-kmeans": ESTIMATORS["uniroute-kmeans"]},
        labels=[30],
        clusters=1,
        trials=3,
        replicates=5,
    )

    assert found.methods["uniroute-kmeans"].areas == pytest.approx(found.methods["zero"].areas)


def test_equal_seeds_give_equal_numbers() -> None:
    """Every bit, intervals too."""

    def run() -> MethodSummary:
        (found,) = evaluate_methods(
            make_outcomes(), ESTIMATORS_USED, labels=[25], clusters=4, trials=3, seed=5, replicates=20
        )
        return found.methods["shrunk"]

    first, second = run(), run()

    assert first.area == second.area
    assert first.area_ci == second.area_ci
    assert first.minus_uniroute_ci == second.minus_uniroute_ci


ESTIMATORS_USED = {name: ESTIMATORS[name] for name in ("uniroute-kmeans", "shrunk")}


def test_several_numbers_of_labels_are_what_each_alone_is() -> None:
    """Fitting once for all of them changes nothing."""
    outcomes = make_outcomes()
    settings: dict[str, Any] = {"clusters": 4, "trials": 2, "replicates": 10}

    few, many = evaluate_methods(outcomes, ESTIMATORS_USED, labels=[5, 40], **settings)
    (alone,) = evaluate_methods(outcomes, ESTIMATORS_USED, labels=[40], **settings)

    assert few.labels == 5
    assert many.methods["shrunk"].area == alone.methods["shrunk"].area


def test_more_labels_than_prompts_are_all_of_them() -> None:
    """60 val prompts: 400 labels are 60, and the evaluation says so."""
    outcomes = make_outcomes()

    (found,) = evaluate_methods(outcomes, ESTIMATORS_USED, labels=[400], clusters=4, trials=2, replicates=5)

    assert found.labels == 400
    assert found.labels_used == 60


def test_a_difference_is_resampled_prompt_by_prompt() -> None:
    """Both methods see the same resample in every trial; worked by hand from two trials' replicates.

    Mean over trials of method minus raw: replicates (.1 + .3) / 2 = .2 and (.3 + .5) / 2 = .4; on all prompts
    (.2 + .4) / 2 = .3 where sampled, .35 where exact. The 2.5 and 97.5 per cent points of (-.1, .1) are
    -.095 and .095.
    """

    def trial(area: float, sampled: float, resampled: list[float]) -> MethodTrial:
        rest = ("area_hull", "area50", "qnc", "peak", "aiq", "cost_save", "oracle_gap", "seconds_fit")
        return MethodTrial(
            area=area,
            area_sampled=sampled,
            areas_resampled=np.array(resampled),
            microseconds_per_prompt=0.0,
            profile=np.zeros(1),
            **dict.fromkeys(rest, 0.0),
        )

    results = [
        TrialResult(
            number=0, rows={(9, "raw"): trial(0.4, 0.4, [0.3, 0.5]), (9, "new"): trial(0.65, 0.6, [0.4, 0.8])}
        ),
        TrialResult(
            number=1, rows={(9, "raw"): trial(0.2, 0.2, [0.1, 0.2]), (9, "new"): trial(0.65, 0.6, [0.4, 0.7])}
        ),
    ]

    (found,) = summarise_trials(results, labels=[9], n_val=9, reference="raw")

    assert found.methods["new"].minus_uniroute == pytest.approx(0.35)
    assert found.methods["new"].minus_uniroute_ci == pytest.approx((0.35 - 0.095, 0.35 + 0.095))
    assert found.methods["raw"].minus_uniroute_ci == (0.0, 0.0)


def test_a_single_trial_has_an_interval_too() -> None:
    """Over test prompts; there is none over trials."""
    (found,) = evaluate_methods(
        make_outcomes(), ESTIMATORS_USED, labels=[20], clusters=4, trials=1, replicates=50
    )

    low, high = found.methods["shrunk"].minus_uniroute_ci
    assert low <= found.methods["shrunk"].minus_uniroute <= high
    assert np.isfinite([low, high]).all()
    assert np.isnan(found.methods["shrunk"].minus_uniroute_trials_ci).all()


def test_the_grid_never_gains() -> None:
    """Every point of the grid is one of the exact curve."""
    outcomes = make_outcomes()
    settings: dict[str, Any] = {"labels": [10], "clusters": 4, "trials": 3, "replicates": 5}

    (exact,) = evaluate_methods(outcomes, ESTIMATORS_USED, curve="exact", **settings)
    (grid,) = evaluate_methods(outcomes, ESTIMATORS_USED, curve="grid", **settings)

    for name, summary in exact.methods.items():
        assert (grid.methods[name].areas <= summary.areas + 1e-12).all()


def test_a_clock_times_fits_and_predictions() -> None:
    """A clock that ticks once per look: every span is one second."""
    ticks = iter(range(10_000))

    (found,) = evaluate_methods(
        make_outcomes(),
        ESTIMATORS_USED,
        labels=[10],
        trials=2,
        clusters=4,
        replicates=5,
        clock=lambda: next(ticks),
    )

    assert found.methods["shrunk"].seconds_fit == 1.0
    assert found.methods["shrunk"].microseconds_per_prompt == pytest.approx(1e6 / 60)
    assert np.isnan(found.methods["cheapest"].seconds_fit)


def test_trials_may_come_in_any_order() -> None:
    """A parallel stand-in for map that finishes last things first gives the same evaluation."""
    settings: dict[str, Any] = {"labels": [10], "clusters": 4, "trials": 3, "replicates": 5}
    (serial,) = evaluate_methods(make_outcomes(), ESTIMATORS_USED, **settings)

    (backwards,) = evaluate_methods(
        make_outcomes(),
        ESTIMATORS_USED,
        run=lambda work, trials: [work(trial) for trial in trials[::-1]],
        **settings,
    )

    assert backwards.methods["shrunk"].areas.tolist() == serial.methods["shrunk"].areas.tolist()


def test_a_cost_rule_may_tell_prompts_apart() -> None:
    """A rule that gives each prompt its own costs is followed; twice the cost of all is the same."""

    def doubled(outcomes: RecordedOutcomes, trial: Trial, labelled: Any) -> NDArray[np.float64]:
        return np.tile(2 * mean_costs(outcomes, trial, labelled), (len(outcomes.test), 1))

    settings: dict[str, Any] = {"labels": [10], "clusters": 4, "trials": 2, "replicates": 5, "curve": "exact"}
    (mean,) = evaluate_methods(make_outcomes(), ESTIMATORS_USED, **settings)
    (own,) = evaluate_methods(make_outcomes(), ESTIMATORS_USED, cost_rule=doubled, **settings)

    assert own.methods["shrunk"].area == pytest.approx(mean.methods["shrunk"].area)
    assert own.methods["shrunk"].minus_mean_cost == pytest.approx(0)
    assert np.isnan(mean.methods["shrunk"].minus_mean_cost)


def test_the_number_of_clusters_is_set_where_there_is_one() -> None:
    """Single maps take it; several resolutions keep theirs; the zero router has none."""
    assert set_clusters(UniRouteKMeans(), 7).get_params()["n_clusters"] == 7
    assert set_clusters(ShrunkCells(), 7).get_params()["sizes"] == (7,)
    assert set_clusters(ShrunkCells(sizes=(5, 10)), 7).get_params()["sizes"] == (5, 10)
    assert set_clusters(ZeroRouter(), 7).get_params() == {}


def test_clusters_are_chosen_by_routing_the_known_llms() -> None:
    """With four topics that decide who is right, one cluster is not enough; equal seeds choose alike."""
    outcomes = make_outcomes(n=1_200)
    trial = draw_trials(6, 300, trials=1, seed=0)[0]

    chosen = choose_clusters(outcomes, trial, candidates=(1, 4))

    assert chosen == 4
    assert choose_clusters(outcomes, trial, candidates=(1, 4)) == 4


def test_unseen_llms_have_no_say_in_the_number_of_clusters() -> None:
    """Turning their scores around changes nothing."""
    outcomes = make_outcomes()
    trial = draw_trials(6, 60, trials=1, seed=0)[0]
    scores = outcomes.scores.copy()
    scores[:, trial.unseen] = 1.0 - scores[:, trial.unseen]
    other = RecordedOutcomes(
        llms=outcomes.llms,
        embeddings=outcomes.embeddings,
        scores=scores,
        costs=outcomes.costs,
        train=outcomes.train,
        val=outcomes.val,
        test=outcomes.test,
    )

    assert choose_clusters(other, trial) == choose_clusters(outcomes, trial)


def test_without_raw_uniroute_there_is_nothing_to_compare_with() -> None:
    """And without labels no cost of an unseen LLM."""
    with pytest.raises(InvalidInputError, match="uniroute-kmeans"):
        evaluate_methods(make_outcomes(), {"shrunk": ESTIMATORS["shrunk"]})
    with pytest.raises(InvalidInputError, match="labels"):
        evaluate_methods(make_outcomes(), ESTIMATORS_USED, labels=[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("llms", ("a", "b")),
        ("llms", ("b", "a", "c", "d", "e", "f")),
        ("scores", np.full((240, 6), 1.5)),
        ("scores", np.full((240, 6), np.nan)),
        ("costs", np.full((240, 6), -1.0)),
        ("costs", np.ones((240, 5))),
        ("embeddings", np.full((240, 8), np.nan)),
        ("val", np.array([], dtype=np.int64)),
    ],
)
def test_outcomes_that_cannot_be_evaluated_are_refused(field: str, value: Any) -> None:
    """Too few LLMs, unsorted ones, values out of range, shapes that differ, an empty split."""
    outcomes = make_outcomes()
    fields = {
        name: getattr(outcomes, name)
        for name in ("llms", "embeddings", "scores", "costs", "train", "val", "test")
    }

    with pytest.raises(InvalidInputError):
        RecordedOutcomes(**{**fields, field: value})
