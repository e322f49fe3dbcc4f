"""Predicted against actual USD on recorded outcomes, by the code that decides live; no price is our own."""

from pathlib import Path

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.costs import calibration, count_inputs, count_usage, fit_input_ratios, fit_lengths
from routing.costs.lengths import LengthModel
from routing.decisions import decide_in_blocks
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.policies import Lagrangian
from routing.requests import Prompts
from routing.snapshot import Snapshot, Versions
from workers.outcomes import OutcomeSet, read_outcomes
from workers.prompts import count_tokens

pytestmark = pytest.mark.outcomes


@pytest.fixture(scope="module")
def recorded(outcomes_dir: Path) -> OutcomeSet:
    """mmlupro28: 12,002 prompts, 28 LLMs, recorded tokens and USD."""
    pytest.importorskip("pyarrow", reason="reading outcome folders needs pyarrow")
    folder = outcomes_dir / "mmlupro28"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return read_outcomes(folder)


def one_map(n_cells: int) -> ClusterMap:
    """A map of given cells: the prompts' subjects, whose vectors are the axes."""
    return ClusterMap(
        centroids=np.eye(n_cells, dtype=np.float32),
        sizes=(n_cells,),
        temperature=float("inf"),
        fingerprint=Fingerprint(
            name="subjects", dimension=n_cells, precision="f32", max_length=8, checksum="a"
        ),
    )


def learn(
    recorded: OutcomeSet, cells: np.ndarray, estimated: np.ndarray, rows: np.ndarray, *, n_cells: int
) -> LengthModel:
    """What the learner fits from the usage of every LLM's replies to these prompts."""
    n_llms = len(recorded.llms)
    llms = np.tile(np.arange(n_llms), len(rows))
    billed = recorded.input_tokens[rows].ravel()
    usage = count_usage(
        np.repeat(cells[rows, None], n_llms, axis=0).astype(np.int32),
        llms,
        billed,
        recorded.output_tokens[rows].ravel(),
        n_cells=n_cells,
        n_llms=n_llms,
    )
    inputs = count_inputs(llms, np.repeat(estimated[rows], n_llms), billed, n_llms=n_llms)
    fitted = fit_lengths(usage, prior_tokens=np.full(n_llms, 256.0), sizes=(n_cells,))
    return LengthModel(
        levels=fitted.levels,
        slopes=fitted.slopes,
        offsets=fitted.offsets,
        spreads=fitted.spreads,
        smears=fitted.smears,
        log_input=fitted.log_input,
        input_ratios=fit_input_ratios(inputs),
    )


def test_predicted_usd_are_those_that_were_paid(recorded: OutcomeSet) -> None:
    """Learned from val, predicted over actual USD is in .9..1.1 on test for each of the 28 LLMs.

    The prompts' tokens are the router's estimate by bytes, as they are live.
    """
    subjects = sorted(set(recorded.domains))
    cells = np.array([subjects.index(domain) for domain in recorded.domains])
    estimated = np.array([count_tokens(text) for text in recorded.texts])
    val, test = (np.flatnonzero(recorded.splits == split) for split in ("val", "test"))
    n_cells, n_llms = len(subjects), len(recorded.llms)
    snapshot = Snapshot(
        cluster_map=one_map(n_cells),
        llms=tuple(
            LLM(
                name=name,
                price=Price(
                    input_usd_per_mtok=recorded.prices[name].input_usd_per_mtok,
                    output_usd_per_mtok=recorded.prices[name].output_usd_per_mtok,
                ),
            )
            for name in recorded.llms
        ),
        error_rates=np.full((n_cells, n_llms), 0.5),
        output_tokens=np.full(n_llms, 256.0),
        versions=Versions(error_rates="1", prices="1"),
        lengths=learn(recorded, cells, estimated, val, n_cells=n_cells),
    )
    prompts = Prompts(
        embeddings=np.eye(n_cells, dtype=np.float32)[cells[test]], input_tokens=estimated[test], limits=None
    )

    blocks = decide_in_blocks(prompts, snapshot, Lagrangian(error_per_usd=1.0), rng=np.random.default_rng(0))
    predicted = np.sum([decisions.costs.sum(axis=0) for decisions in blocks], axis=0)

    ratios = calibration(predicted, recorded.costs_usd[test].sum(axis=0))
    assert len(ratios) == 28
    assert 0.9 <= ratios.min() <= ratios.max() <= 1.1
