import numpy as np
import pytest
from fake_embedders import FakeEmbedder

from workers.embedding.comparison import compare_embedders, share_equal_clusters

TEXTS = [f"prompt {index}" for index in range(50)]


def test_an_embedder_agrees_with_itself() -> None:
    """Equal vectors have cosine 1 and lie in the same clusters; speed and processor time are positive."""
    first, second = compare_embedders([("one", FakeEmbedder()), ("two", FakeEmbedder())], TEXTS)

    assert (first.label, second.label) == ("one", "two")
    assert second.cosine_mean == pytest.approx(1.0)
    assert second.cosine_min == pytest.approx(1.0)
    assert second.same_cluster == 1.0
    assert second.prompts_per_second > 0
    assert second.cpu_seconds_per_1000 >= 0


@pytest.mark.parametrize("other", [FakeEmbedder(dimension=5), FakeEmbedder(name="other")])
def test_another_space_is_not_compared(other: FakeEmbedder) -> None:
    """Between models a cosine means nothing, so there is none."""
    _, second = compare_embedders([("one", FakeEmbedder()), ("two", other)], TEXTS)

    assert (second.cosine_mean, second.cosine_min, second.same_cluster) == (None, None, None)


def test_shares_of_equal_clusters_are_counted_by_the_references_centroids() -> None:
    """Four points in two far clusters, one of which moved to the other: three quarters are equal."""
    reference = np.array([[0, 1], [0, 0.9], [1, 0], [0.9, 0]], dtype=np.float32)
    moved = np.array([[0, 1], [0, 0.9], [1, 0], [0, 0.9]], dtype=np.float32)

    assert share_equal_clusters(reference, moved, clusters=2) == 0.75
