"""The k-means map: weights and cells by hand, hard maps, capping, immutability, files."""

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans

from routing.clusters import (
    PARTS,
    ClusterMap,
    LearnedMap,
    fit_cluster_map,
    load_map,
    soften_map,
    split_observation,
)
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError

RNG = np.random.default_rng(11)


def fingerprint(dimension: int) -> Fingerprint:
    """An embedder that exists in name only."""
    return Fingerprint(name="tests", dimension=dimension, precision="f32", max_length=1, checksum="")


def unit_rows(n: int, dimension: int = 16) -> np.ndarray:
    """Random directions."""
    rows = RNG.normal(size=(n, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


#: Two resolutions in the plane: one cell, then the two axes.
PLANE = ClusterMap(
    centroids=np.array([[0.5, 0.5], [1, 0], [0, 0.5]], dtype=np.float32),
    sizes=(1, 2),
    temperature=2.0,
    fingerprint=fingerprint(2),
)


def test_soft_weights_by_hand() -> None:
    """Each resolution holds 1 / R; within it, softmax of temperature times cosine, whatever the length of mu.

    For x = (1, 0): cosines 1 and 0 to the axes, so e^2 / (e^2 + 1) = .880797 and .119203, halved.
    """
    weights = PLANE.weights(np.array([[1, 0]], dtype=np.float32))

    assert weights.dtype == np.float32
    assert weights[0] == pytest.approx([0.5, 0.4403985, 0.0596015], abs=1e-7)


def test_an_observation_is_split_by_weight() -> None:
    """128 parts a resolution: one cell gets all; of two, .119203 * 128 = 15.3 and the heavier the rest."""
    placed = PLANE.place(np.array([[1, 0]], dtype=np.float32))

    assert split_observation(placed.weights[0], placed.cells[0], PLANE.sizes) == ((0, 128), (1, 113), (2, 15))


def test_a_hard_map_splits_nothing() -> None:
    """Each cell counts the whole observation; no share is spelled out."""
    hard = PLANE.with_temperature(math.inf)
    placed = hard.place(unit_rows(50, 2))

    assert {
        split_observation(*row, hard.sizes) for row in zip(placed.weights, placed.cells, strict=True)
    } == {()}


def test_a_split_observation_is_one_observation() -> None:
    """Whatever the weights, parts add up: the first resolution's in one cell, others' in at most three."""
    rows = unit_rows(60)
    soft = fit_cluster_map(rows, sizes=(2, 7), temperature=3.0, fingerprint=fingerprint(16), seed=0)
    placed = soft.place(rows)
    for weights, cells in zip(placed.weights, placed.cells, strict=True):
        shares = split_observation(weights, cells, soft.sizes)

        assert [share for share in shares if share[0] < 2] == [(cells[0], PARTS)]
        assert sum(parts for cell, parts in shares if cell >= 2) == PARTS
        assert len(shares) <= 1 + 3


def test_cells_are_the_nearest_centroids() -> None:
    """Cells are nearest by Euclidean distance: (.6, .8) is .894 from (1, 0) and .671 from (0, .5)."""
    cells = PLANE.cells(np.array([[1, 0], [0.6, 0.8]], dtype=np.float32))

    assert cells.tolist() == [[0, 1], [0, 2]]


def test_hard_map_is_one_hot_in_the_kmeans_cell() -> None:
    """At temperature inf a map of one resolution is scikit-learn's prediction, in weights of 0 and 1."""
    X = unit_rows(300)
    hard = fit_cluster_map(X, sizes=(7,), temperature=math.inf, fingerprint=fingerprint(16))
    labels = KMeans(n_clusters=7, n_init=4, random_state=0).fit(X).predict(X)

    weights = hard.weights(X)

    assert np.array_equal(weights, np.eye(7, dtype=np.float32)[labels])
    assert np.array_equal(hard.cells(X)[:, 0], labels)


def test_hard_error_estimates_are_exactly_the_cell_rates() -> None:
    """With a hard map the estimate is raw UniRoute's cell mean, to the last bit."""
    X, rates = unit_rows(100), RNG.random((9, 4))
    hard = fit_cluster_map(X, sizes=(9,), temperature=math.inf, fingerprint=fingerprint(16))

    assert np.array_equal(hard.weights(X) @ rates, rates[hard.cells(X)[:, 0]])


@pytest.mark.parametrize("temperature", [0.0, 1.0, 16.0, 1e6, math.inf])
def test_rows_sum_to_one(temperature: float) -> None:
    """Weights are at least 0 and sum to 1 within C * 2**-25, at any temperature."""
    X = unit_rows(500)
    soft = fit_cluster_map(X, sizes=(1, 4, 30), temperature=temperature, fingerprint=fingerprint(16))

    weights = soft.weights(X).astype(np.float64)

    assert weights.min() >= 0
    assert np.abs(weights.sum(axis=1) - 1).max() <= 35 * 2**-25
    assert np.array_equal(weights * 2**24, np.rint(weights * 2**24))


def test_great_temperature_is_nearly_hard_by_cosine() -> None:
    """A temperature of 1e6 puts all weight on the greatest cosine and overflows nowhere."""
    X = unit_rows(50)
    soft = ClusterMap(centroids=unit_rows(6), sizes=(6,), temperature=1e6, fingerprint=fingerprint(16))

    weights = soft.weights(X)

    assert np.array_equal(weights.argmax(axis=1), (X @ soft.centroids.T).argmax(axis=1))
    assert np.all(np.isfinite(weights))


def test_relabelled_clusters_give_the_same_weights() -> None:
    """Another order of the centroids permutes the columns and nothing else, to the weights' rounding."""
    X, order = unit_rows(80), RNG.permutation(12)
    one = ClusterMap(centroids=unit_rows(12), sizes=(12,), temperature=9.0, fingerprint=fingerprint(16))
    two = ClusterMap(
        centroids=one.centroids[order], sizes=(12,), temperature=9.0, fingerprint=fingerprint(16)
    )

    assert np.allclose(one.weights(X)[:, order], two.weights(X), atol=1e-6)
    assert np.array_equal(order[two.cells(X)], one.cells(X))


def test_one_cluster_has_weight_one() -> None:
    """K = 1 says nothing about the prompt: weight exactly 1, the ZeroRouter's map."""
    X = unit_rows(20)
    zero = fit_cluster_map(X, sizes=(1,), fingerprint=fingerprint(16))

    assert np.array_equal(zero.weights(X), np.ones((20, 1)))
    assert np.allclose(zero.centroids[0], X.mean(axis=0), atol=1e-6)


def test_more_clusters_than_prompts() -> None:
    """Sizes come down to the number of distinct prompts; sizes that become equal are kept once."""
    X = np.concatenate([unit_rows(6)] * 3)

    capped = fit_cluster_map(X, sizes=(2, 5, 10, 80), fingerprint=fingerprint(16))

    assert capped.sizes == (2, 5, 6)


def test_equal_input_gives_an_equal_version() -> None:
    """The version is a hash of the content: the same fit gives it again, any change another."""
    X = unit_rows(60)
    first = fit_cluster_map(X, sizes=(3, 5), fingerprint=fingerprint(16))
    again = fit_cluster_map(X, sizes=(3, 5), fingerprint=fingerprint(16))
    others = [
        fit_cluster_map(X, sizes=(3, 6), fingerprint=fingerprint(16)),
        first.with_temperature(17.0),
        ClusterMap(
            centroids=first.centroids,
            sizes=(5, 3),
            temperature=16.0,
            fingerprint=fingerprint(16),
        ),
    ]

    assert first == again
    assert first.version == again.version
    assert len(first.version) == 16
    assert len({first.version, *(other.version for other in others)}) == 4


def test_map_is_immutable() -> None:
    """Centroids are a read-only copy."""
    mine = np.eye(2, dtype=np.float32)
    held = ClusterMap(centroids=mine, sizes=(2,), temperature=1.0, fingerprint=fingerprint(2))
    mine[0, 0] = 5

    assert held.centroids[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        held.centroids[0, 0] = 2


@pytest.mark.parametrize("temperature", [16.0, math.inf, 0.1 + 0.2])
def test_file_gives_the_same_map_back(temperature: float) -> None:
    """A map survives its file bit for bit, and equal maps are equal files."""
    held = PLANE.with_temperature(temperature)

    loaded = load_map(held.to_bytes())

    assert loaded == held
    assert isinstance(loaded, ClusterMap)
    assert loaded.temperature == temperature
    assert loaded.fingerprint == held.fingerprint
    assert loaded.to_bytes() == held.to_bytes()


def test_learned_map_file_gives_the_same_map_back() -> None:
    """A learned map survives its file and is told from a k-means map."""
    X = unit_rows(40)
    held = soften_map(fit_cluster_map(X, sizes=(4,), fingerprint=fingerprint(16)), X)

    loaded = load_map(held.to_bytes())

    assert isinstance(loaded, LearnedMap)
    assert loaded == held
    with pytest.raises(InvalidInputError, match="not a kmeans map"):
        ClusterMap.from_bytes(held.to_bytes())


@pytest.mark.parametrize("data", [b"", b"not a map", PLANE.to_bytes()[:-40], b"PK\x03\x04" + bytes(64)])
def test_damaged_files_are_refused(data: bytes) -> None:
    """What is not a map's file is an InvalidInputError, never a crash of the reader."""
    with pytest.raises(InvalidInputError):
        load_map(data)


def test_altered_content_is_refused() -> None:
    """A file whose content does not match the version in its header is refused."""
    data = PLANE.to_bytes()
    other = ClusterMap(
        centroids=PLANE.centroids * 2, sizes=PLANE.sizes, temperature=2.0, fingerprint=fingerprint(2)
    ).to_bytes()
    mixed = other.replace(
        ClusterMap.from_bytes(other).version.encode(), ClusterMap.from_bytes(data).version.encode()
    )

    with pytest.raises(InvalidInputError):
        ClusterMap.from_bytes(mixed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sizes", (1, 1)),
        ("sizes", ()),
        ("sizes", (3, 0)),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("centroids", np.ones((3, 5), dtype=np.float32)),
        ("centroids", np.full((3, 2), np.nan, dtype=np.float32)),
    ],
)
def test_parts_that_do_not_fit_are_refused(field: str, value: object) -> None:
    """Shapes, sizes and temperatures that make no map are named."""
    parts = {
        "centroids": PLANE.centroids,
        "sizes": (1, 2),
        "temperature": 1.0,
        "fingerprint": fingerprint(2),
    }

    with pytest.raises(InvalidInputError) as caught:
        ClusterMap(**(parts | {field: value}))

    assert caught.value.field == field


@pytest.mark.parametrize("sizes", [(), (0,), (-3,)])
def test_sizes_below_one_are_refused(sizes: tuple[int, ...]) -> None:
    """A map has at least one resolution of at least one cell."""
    with pytest.raises(InvalidInputError, match="sizes"):
        fit_cluster_map(unit_rows(5), sizes=sizes, fingerprint=fingerprint(16))


def test_no_prompts_no_map() -> None:
    """Clustering nothing is an error with a sentence."""
    with pytest.raises(InvalidInputError, match="at least one prompt"):
        fit_cluster_map(np.empty((0, 16), dtype=np.float32), fingerprint=fingerprint(16))


def test_opposite_prompts_have_a_centroid_without_direction() -> None:
    """A centroid of length 0 has cosine 0 to everything, and no division by 0."""
    X = np.array([[1, 0], [-1, 0]], dtype=np.float32)

    zero = fit_cluster_map(X, sizes=(1, 2), fingerprint=fingerprint(2))

    assert np.all(np.isfinite(zero.weights(X)))
    assert zero.weights(X)[:, 0].tolist() == [0.5, 0.5]
