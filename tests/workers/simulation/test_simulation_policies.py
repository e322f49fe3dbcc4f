"""Policies over recorded outcomes: what they cost and answered is what was recorded, promises are checked."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcome_folders import write_topics

from routing.clusters import Placement
from routing.decisions import decide_placed
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import InvalidInputError
from routing.policies import Candidates
from workers.errors import UsageError
from workers.outcomes import read_outcomes
from workers.policies import read_policy
from workers.simulation.policies import Simulation, draw_traffic, simulate
from workers.simulation.promises import Evidence, prepare
from workers.simulation.recorded import Recorded, learn_from
from workers.simulation.reports import make_report
from workers.simulation.trials import run_trials

TOPICS = ("algebra", "botany", "cooking", "dance")


def embed_topics(texts: Sequence[str]) -> tuple[FloatMatrix, Fingerprint]:
    """Each topic a direction, with a little of its own for each text."""
    rng = np.random.default_rng(0)
    rows = np.eye(4, 8)[[TOPICS.index(text.split()[0]) for text in texts]]
    rows += 0.05 * rng.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), Fingerprint(
        name="topics", dimension=8, precision="f32", max_length=1, checksum=""
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """1,600 prompts of four topics, six LLMs; LLM k costs (k + 1) x 1e-4 USD a call."""
    folder = write_topics(tmp_path_factory.mktemp("outcomes") / "topics", per_topic=400)
    return learn_from(read_outcomes(folder), embed=embed_topics)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Two hundred graded prompts to llm-0, ..., llm-5, dearer ones better."""
    rng = np.random.default_rng(0)
    errors = np.clip(rng.normal(np.linspace(0.6, 0.2, 6), 0.1, (200, 6)), 0, 1)
    return Evidence(
        known=Candidates(
            errors=errors,
            costs=np.tile(1e-4 * np.arange(1, 7), (200, 1)),
            allowed=np.ones((200, 6), dtype=bool),
            names=tuple(f"llm-{column}" for column in range(6)),
            deviations=np.full((200, 6), 0.05),
        ),
        wrong=(rng.random((200, 6)) < errors).astype(float),
        untouched=np.arange(100, 200),
    )


def run(recorded: Recorded, body: dict[str, Any], **options: Any) -> Simulation:
    """Simulate one policy, named p."""
    return simulate(recorded, {"p": body}, **options)


def test_fixed_costs_and_answers_what_was_recorded(recorded: Recorded) -> None:
    """320 test prompts at 3 x 1e-4 USD: .096; the quality is the mean of its scores."""
    found = run(recorded, {"kind": "fixed", "llm": "llm-2"}).policies["p"]

    assert found.cost_usd == pytest.approx(0.096)
    assert found.quality == pytest.approx(recorded.scores[recorded.test, 2].mean())
    assert found.calls == {"llm-2": 320}
    assert found.kept


def test_singles_are_the_best_and_the_cheapest(recorded: Recorded) -> None:
    """The best by mean score on the traffic, the cheapest by what it cost there."""
    found = run(recorded, {"kind": "fixed", "llm": "llm-2"})
    means = recorded.scores[recorded.test].mean(axis=0)

    assert found.best_single.quality == pytest.approx(means.max())
    assert (found.cheapest.llm, found.cheapest.cost_usd) == ("llm-0", pytest.approx(0.032))


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_budget_is_spent_and_never_broken(recorded: Recorded, share: float) -> None:
    """Within 1 % of the target, and not a cent beyond it."""
    found = run(recorded, {"kind": "budget", "share_of_best": share}, prompts=2000)
    one = found.policies["p"]

    assert one.target == pytest.approx(share * found.best_single.cost_usd)
    assert one.target * 0.99 <= one.cost_usd <= one.target
    assert one.kept


def test_budget_that_is_not_enough_serves_whom_it_can(recorded: Recorded) -> None:
    """.01 USD for 320 prompts that cost at least .0001 each: about a hundred are served, and it says so."""
    one = run(recorded, {"kind": "budget", "usd": 0.01}).policies["p"]

    assert one.cost_usd <= 0.01
    assert 200 <= one.unserved <= 240
    assert one.limits_kept


def test_budget_that_is_more_than_enough_is_not_wasted(recorded: Recorded) -> None:
    """With nothing better to buy the target counts as met."""
    one = run(recorded, {"kind": "budget", "usd_per_day": 10.0}).policies["p"]

    assert one.cost_usd < 1
    assert one.target_met


def test_floor_saves_and_keeps_its_distance(recorded: Recorded) -> None:
    """Cheaper than the best single LLM; the target, its quality less d, is met with the upper bound."""
    found = run(recorded, {"kind": "quality-floor", "d": 0.1, "on": "upper"}, prompts=2000)
    one = found.policies["p"]

    assert one.target == pytest.approx(found.best_single.quality - 0.1)
    assert one.kept
    assert one.cost_usd < found.best_single.cost_usd


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "quality-floor", "d": 0.05},
        {"kind": "quality-floor", "d": 0.05, "on": "upper", "fallbacks": ["llm-1"]},
        {"kind": "quality-floor", "d": 0.05, "over": "prompt"},
        {"kind": "quality-floor", "d": 0.0, "on": "upper", "confidence": 0.9999},
        {"kind": "equivalent-to", "delta": 0.1, "cache_seconds": 60},
        {"kind": "equivalent-to", "delta": 0.0},
        {"kind": "balanced"},
        {"kind": "threshold", "weak": "llm-0", "strong": "llm-5", "strong_share": 0.4},
        {
            "kind": "threshold",
            "weak": "llm-0",
            "strong": "llm-5",
            "strong_share": 0.0,
            "on_failure": "dead-letter",
        },
    ],
)
def test_a_simulated_policy_is_what_its_live_body_runs(recorded: Recorded, body: dict[str, Any]) -> None:
    """Applied, it chooses the same LLM for each prompt, decided from the snapshot as a router decides.

    Simulated again it comes out the same too, and what the body says beside its margin is kept.
    """
    simulated = run(recorded, body)
    found, rows = simulated.policies["p"], recorded.test
    live = found.prepared.live
    assert live is not None
    snapshot = recorded.teach(np.random.default_rng([0, 5]).permutation(recorded.val)[: simulated.labels])

    routed = decide_placed(
        Placement(weights=recorded.placement.weights[rows], cells=recorded.placement.cells[rows]),
        recorded.input_tokens[rows],
        None,
        snapshot,
        read_policy("p", live).policy,
        rng=np.random.default_rng(0),
    )

    assert found.prepared.policy == read_policy("p", live).policy
    assert Counter(map(routed.llm, range(len(rows)))) == found.calls
    assert run(recorded, live).policies["p"].calls == found.calls
    assert {key: live[key] for key in ("fallbacks", "cache_seconds", "on_failure") if key in body} == {
        key: body[key] for key in ("fallbacks", "cache_seconds", "on_failure") if key in body
    }


def test_strong_share_is_kept(recorded: Recorded) -> None:
    """About four prompts in ten go to the strong LLM."""
    body = {"kind": "threshold", "weak": "llm-0", "strong": "llm-5", "strong_share": 0.4}

    calls = run(recorded, body).policies["p"].calls

    assert set(calls) <= {"llm-0", "llm-5"}
    assert calls.get("llm-5", 0) / 320 == pytest.approx(0.4, abs=0.15)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"kind": "budget", "usd": 1.0, "uds": 2.0}, "unknown key 'uds'"),
        ({"kind": "budget"}, "give one of usd"),
        ({"kind": "budget", "usd": 1.0, "share_of_best": 0.3}, "give one of usd"),
        ({"kind": "budget", "usd": -1.0}, "usd is -1.0"),
        ({"kind": "budget", "usd_per_day": 1.0, "per": "hour"}, "per belongs to usd"),
        ({"kind": "quality-floor"}, "give d"),
        ({"kind": "quality-floor", "d": 0.1, "tolerance": 0.1}, "give d"),
        ({"kind": "quality-floor", "d": 2}, "d is 2"),
        ({"kind": "quality-floor", "d": 0.1, "over": "year"}, "over is 'year'"),
        ({"kind": "quality-floor", "d": 0.1, "confidence": 0.9}, "confidence belongs to"),
        ({"kind": "equivalent-to", "delta": 0.1, "reference": "nobody"}, "no LLM is named 'nobody'"),
        ({"kind": "fixed", "llm": "nobody"}, "no LLM is named 'nobody'"),
        ({"kind": "threshold", "weak": "llm-0", "strong": "llm-1", "strong_share": 2}, "strong_share is 2"),
        ({"kind": "unheard-of"}, "kind is 'unheard-of'"),
        ({}, "kind is missing"),
    ],
)
def test_errors_name_file_policy_and_key(recorded: Recorded, body: dict[str, Any], problem: str) -> None:
    """Whoever wrote the file is told where to look."""
    with pytest.raises(UsageError, match=r"budgets\.yaml: policy p: ") as caught:
        run(recorded, body, source="budgets.yaml")

    assert problem in str(caught.value)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    st.sampled_from(["llm-0", "llm-3", "nobody", "upper", "mean", "traffic", "prompt", "hour", ""]),
    st.lists(st.sampled_from(["llm-0", "nobody", 3]), max_size=2),
    st.dictionaries(st.sampled_from(["llm-0", "llm-1", "nobody"]), st.floats(-1, 2), max_size=2),
)
_KEYS = st.sampled_from(
    [
        "d",
        "tolerance",
        "over",
        "on",
        "confidence",
        "reference",
        "delta",
        "usd",
        "usd_per_hour",
        "usd_per_day",
        "share_of_best",
        "per",
        "weak",
        "strong",
        "strong_share",
        "threshold",
        "per_usd",
        "llm",
        "weights",
        "error_per_usd",
        "reference_cost_usd",
        "fallbacks",
        "nonsense",
    ]
)
_KINDS = st.sampled_from(
    [
        "quality-floor",
        "equivalent-to",
        "budget",
        "threshold",
        "fixed",
        "weighted",
        "lagrangian",
        "balanced",
        "cost-first",
        "x",
    ]
)


@given(kind=_KINDS, rest=st.dictionaries(_KEYS, _VALUES, max_size=3))
@settings(max_examples=400)
def test_no_body_crashes_the_simulation(evidence: Evidence, kind: str, rest: dict[str, Any]) -> None:
    """Whatever stands in a file, the body is used or refused by an error that names the policy."""
    try:
        named = f"policy p of kind {prepare('p', {'kind': kind, **rest}, evidence).kind}"
    except InvalidInputError as error:
        named = error.field

    assert named.startswith("policy p")


def test_no_test_prompt_comes_twice_before_each_came_once() -> None:
    """Five prompts of three: a permutation, then two of another."""
    traffic = draw_traffic(np.array([7, 8, 9]), 5, np.random.default_rng(0))

    assert sorted(traffic[:3].tolist()) == [7, 8, 9]
    assert len(set(traffic[3:].tolist())) == 2


def test_nothing_of_test_is_known_beforehand(recorded: Recorded) -> None:
    """Reversing every score of the test prompts leaves each choice as it was."""
    bodies = {"floor": {"kind": "quality-floor", "d": 0.05}, "same": {"kind": "equivalent-to", "delta": 0.1}}
    scores = recorded.scores.copy()
    scores[recorded.test] = 1 - scores[recorded.test]

    as_it_is, reversed_ = simulate(recorded, bodies), simulate(replace(recorded, scores=scores), bodies)

    for name in bodies:
        assert reversed_.policies[name].calls == as_it_is.policies[name].calls


def test_report_is_json_with_the_promised_fields(recorded: Recorded) -> None:
    """Every number finite; each policy has cost, quality, target and kept."""
    bodies = {"floor": {"kind": "quality-floor", "d": 0.9}, "tenth": {"kind": "budget", "share_of_best": 0.5}}
    trials = run_trials(recorded, bodies, trials=2)

    report = json.loads(
        json.dumps(make_report(recorded, simulate(recorded, bodies), trials), allow_nan=False)
    )

    assert set(report["policies"]) == {"floor", "tenth"}
    for one in report["policies"].values():
        assert {"cost_usd", "quality", "target", "kept"} <= set(one)
    for single in (report["best_single"], report["cheapest"]):
        assert set(single) == {"llm", "cost_usd", "quality"}
    assert report["trials"]["count"] == 2
    assert all(ratio["val"] == pytest.approx(1, abs=0.01) for ratio in report["cost_calibration"].values())


def test_splits_are_dealt_anew_in_their_sizes(recorded: Recorded) -> None:
    """The same prompts, each in one split; train stays."""
    dealt = recorded.resplit(np.random.default_rng(1))

    assert (len(dealt.val), len(dealt.test)) == (len(recorded.val), len(recorded.test))
    assert sorted([*dealt.val, *dealt.test]) == sorted([*recorded.val, *recorded.test])
    assert dealt.test.tolist() != recorded.test.tolist()
    assert dealt.train is recorded.train


def test_a_set_without_a_split_is_refused(tmp_path: Path) -> None:
    """There is nothing to learn from or to send."""
    outcomes = read_outcomes(write_topics(tmp_path / "topics", per_topic=10))
    only_train = replace(outcomes, splits=np.full(len(outcomes.splits), "train"))

    with pytest.raises(UsageError, match="no val prompt"):
        learn_from(only_train, embed=embed_topics)
