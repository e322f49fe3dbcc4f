"""Maps compared by the feedback that they did not learn from."""

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError
from routing.evaluation.maps import ScoredPrompts, compare_maps
from routing.quality.pool_prior import PoolPrior, fit_pool_prior


def make_map(centroids: np.ndarray) -> tuple[ClusterMap, PoolPrior]:
    """A hard map, and a prior that leaves rates to each LLM's own counts."""
    fitted = ClusterMap(
        centroids=centroids.astype(np.float32),
        sizes=(len(centroids),),
        temperature=np.inf,
        fingerprint=Fingerprint(name="axes", dimension=2, precision="f32", max_length=8, checksum="a"),
    )
    return fitted, fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=fitted.sizes)


def score_axes(n: int) -> ScoredPrompts:
    """Prompts on two axes by turns; one LLM that always fails on the second, once per prompt."""
    axis = np.arange(n) % 2
    return ScoredPrompts(
        embeddings=np.eye(2, dtype=np.float32)[axis],
        rows=np.arange(n),
        llms=np.zeros(n, dtype=np.int64),
        errors=axis.astype(np.float64),
        n_llms=1,
    )


ONE, TWO = make_map(np.array([[0.5, 0.5]])), make_map(np.eye(2))


def test_a_map_is_level_with_itself() -> None:
    """The same bits, no difference, and not better."""
    found = compare_maps(TWO, TWO, score_axes(40))

    assert (found.difference, found.interval, found.better) == (0.0, (0.0, 0.0), False)
    assert (found.prompts, found.pieces) == (40, 40)


def test_a_map_that_tells_right_from_wrong_is_better() -> None:
    """One cell knows that half is wrong, a loss of log 2; two cells know which half."""
    found = compare_maps(ONE, TWO, score_axes(40))

    assert found.old_loss == pytest.approx(np.log(2), abs=1e-3)
    assert found.new_loss < 0.2
    assert found.better
    assert not compare_maps(TWO, ONE, score_axes(40)).better


def test_one_prompt_is_no_comparison() -> None:
    """An interval over prompts needs two."""
    with pytest.raises(InvalidInputError):
        compare_maps(ONE, TWO, score_axes(1))
