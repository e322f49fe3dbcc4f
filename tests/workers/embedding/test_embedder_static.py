from pathlib import Path

import numpy as np
import pytest

from workers.embedding.artifacts import read_artifact
from workers.embedding.distillation import distill_artifact, reduce_dimension, weight_by_rarity
from workers.embedding.errors import BackendUnavailableError, UnsupportedModelError
from workers.embedding.loading import load_embedder, open_for


def test_reducing_keeps_the_directions_of_most_variance() -> None:
    """Rows on a line in the plane keep their distances along it; the sign of a component is free."""
    # Mean (3, 4); the rows lie -5, 0 and 5 from it along (3, 4) / 5.
    rows = np.array([[0, 0], [3, 4], [6, 8]], dtype=np.float32)

    reduced = reduce_dimension(rows, 1)

    np.testing.assert_allclose(np.abs(reduced[:, 0]), [5, 0, 5], atol=1e-5)
    assert reduced[0, 0] * reduced[2, 0] < 0


def test_rare_tokens_weigh_more() -> None:
    """Two tokens have shares 3/5 and 2/5 (1/2 : 1/3); with a = .4 they weigh .4 / 1.0 and .4 / .8."""
    weighted = weight_by_rarity(np.ones((2, 1), dtype=np.float32), rarity=0.4)

    np.testing.assert_allclose(weighted[:, 0], [0.4, 0.5], rtol=1e-6)


@pytest.mark.model
def test_a_static_artifact_is_an_embedder_like_the_others(tiny: Path) -> None:
    """It has its own name, dimension and fingerprint, unit rows in order, and is found by its map."""
    path = distill_artifact(tiny, tiny.parent, dimension=4, threads=1)
    embedder = load_embedder(path)

    vectors = embedder.encode(["the router", "", "\ud800", "what is a prompt?"])

    assert embedder.fingerprint.name == "tiny-static-4"
    assert vectors.shape == (4, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(vectors[:1], embedder.encode(["the router"]))
    assert embedder.encode([]).shape == (0, 4)
    assert open_for(embedder.fingerprint, folder=tiny.parent).fingerprint == embedder.fingerprint


@pytest.mark.model
def test_what_cannot_be_distilled_is_refused(tiny: Path) -> None:
    """A static artifact has no transformer, and a table no more dimensions than its transformer."""
    static = distill_artifact(tiny, tiny.parent, dimension=4, threads=1)

    with pytest.raises(UnsupportedModelError, match="static already"):
        distill_artifact(static, tiny.parent)
    with pytest.raises(UnsupportedModelError, match="16 dimensions, not 17"):
        distill_artifact(tiny, tiny.parent, dimension=17)
    with pytest.raises(BackendUnavailableError, match="is a static artifact"):
        load_embedder(static, backend="onnxruntime")
    assert read_artifact(static).manifest.kind == "static"
