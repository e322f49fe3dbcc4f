from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from routing.clusters import ClusterMap
from routing.errors import InvalidInputError
from workers.storage.cell_counts import CellCounts, lock_refits, try_lock_refits
from workers.storage.engine import transaction
from workers.storage.errors import RefusedError

pytestmark = pytest.mark.stack

Row = tuple[str, int, float, float]


def add_rows(engine: Engine, version: str, rows: list[Row]) -> None:
    """Add rows in a transaction of their own."""
    with transaction(engine) as session:
        llms, cells, errors, weights = zip(*rows, strict=True)
        CellCounts(session).add(version, llms, cells, errors, weights)


def test_counts_add_up(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Rows of one cell are summed, in one call and over calls; what nobody added to is 0."""
    with transaction(stocked) as session:
        counts = CellCounts(session)
        counts.add(cluster_map.version, ["a", "b", "a"], [0, 3, 0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0])
        counts.add(cluster_map.version, ["a"], [0], [0.25], [0.5])
    with transaction(stocked) as session:
        found = CellCounts(session).read(cluster_map.version, ["b", "a"], n_cells=4)

    # a, cell 0: 1 + 0 + 1/4 wrong of 1 + 1 + 1/2; b, cell 3: 1/2 of 1. Columns in the order asked for.
    assert found.errors.tolist() == [[0, 1.25], [0, 0], [0, 0], [0.5, 0]]
    assert found.labels.tolist() == [[0, 2.5], [0, 0], [0, 0], [1, 0]]


def test_labels_and_feedback_are_kept_apart(stocked: Engine, cluster_map: ClusterMap) -> None:
    """The mass of offline labels can be capped later only if it is known."""
    with transaction(stocked) as session:
        counts = CellCounts(session)
        counts.add(cluster_map.version, ["a"], [1], [1.0], [4.0], evidence="label")
        counts.add(cluster_map.version, ["a"], [1], [0.5], [2.0], evidence="feedback")
        labels = counts.read(cluster_map.version, ["a"], n_cells=4, evidence=("label",))
        feedback = counts.read(cluster_map.version, ["a"], n_cells=4, evidence=("feedback",))
        both = counts.read(cluster_map.version, ["a"], n_cells=4)

    assert [found.labels[1, 0] for found in (labels, feedback, both)] == [4.0, 2.0, 6.0]
    assert [found.errors[1, 0] for found in (labels, feedback, both)] == [1.0, 0.5, 1.5]


def test_maps_are_counted_apart(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Feedback on decisions of an older map adds to that map only; one call may serve several maps."""
    older = "0" * 16
    with transaction(stocked) as session:
        session.execute(
            text(
                "INSERT INTO cluster_maps (version, map, prior, fingerprint) VALUES (:version, '', '', '{}')"
            ),
            {"version": older},
        )
        CellCounts(session).add([older, cluster_map.version], ["a", "a"], [0, 0], [1.0, 0.0], [1.0, 1.0])
        found = CellCounts(session).read(older, ["a"], n_cells=1)

    assert (found.errors.tolist(), found.labels.tolist()) == ([[1.0]], [[1.0]])


def test_nothing_adds_nothing(stocked: Engine, cluster_map: ClusterMap) -> None:
    """An empty batch is no statement at all."""
    with transaction(stocked) as session:
        CellCounts(session).add(cluster_map.version, [], [], [], [])

        assert CellCounts(session).read(cluster_map.version, [], n_cells=4).errors.shape == (4, 0)


@pytest.mark.parametrize(
    ("errors", "weights", "cells"),
    [
        ([2.0], [1.0], [0]),
        ([-1.0], [1.0], [0]),
        ([float("nan")], [1.0], [0]),
        ([0.0], [float("inf")], [0]),
        ([0.0], [1.0], [-1]),
        ([0.0, 0.0], [1.0], [0]),
    ],
)
def test_impossible_counts_are_refused(
    stocked: Engine, cluster_map: ClusterMap, errors: list[float], weights: list[float], cells: list[int]
) -> None:
    """Errors lie within 0..weight, both finite, one of each per row."""
    with pytest.raises(InvalidInputError), transaction(stocked) as session:
        CellCounts(session).add(cluster_map.version, ["a"], cells, errors, weights)


def test_counts_of_an_llm_nobody_registered_are_refused(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Evidence belongs to an LLM and a map that are kept."""
    with pytest.raises(RefusedError) as caught, transaction(stocked) as session:
        CellCounts(session).add(cluster_map.version, ["ghost"], [0], [0.0], [1.0])

    assert caught.value.constraint == "fk_feedback_counts_llm_llms"


def test_a_cell_beyond_the_map_is_an_error(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Counts of a cell the map does not have are never dropped in silence."""
    add_rows(stocked, cluster_map.version, [("a", 9, 0.0, 1.0)])

    with pytest.raises(InvalidInputError, match="cell 9"), transaction(stocked) as session:
        CellCounts(session).read(cluster_map.version, ["a"], n_cells=4)


dyadic_rows = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 8), st.sampled_from([0.25, 0.5, 1.0])),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=dyadic_rows, cuts=st.lists(st.integers(1, 29), max_size=4))
def test_any_cut_into_batches_gives_the_exact_sum(
    stocked: Engine, cluster_map: ClusterMap, rows: list[tuple[str, int, int, float]], cuts: list[int]
) -> None:
    """With dyadic weights and scores, however feedback arrives, counts equal the sum in exact arithmetic."""
    counted: list[Row] = [(llm, cell, weight * eighths / 8, weight) for llm, cell, eighths, weight in rows]
    with transaction(stocked) as session:
        session.execute(text("TRUNCATE feedback_counts"))
    edges = sorted({0, len(counted), *(cut for cut in cuts if cut < len(counted))})
    for start, stop in pairwise(edges):
        add_rows(stocked, cluster_map.version, counted[start:stop])
    with transaction(stocked) as session:
        found = CellCounts(session).read(cluster_map.version, ["a", "b"], n_cells=4)

    for column, name in enumerate("ab"):
        for cell in range(4):
            own = [row for row in counted if row[:2] == (name, cell)]
            assert Fraction(found.errors[cell, column]) == sum((Fraction(row[2]) for row in own), Fraction())
            assert Fraction(found.labels[cell, column]) == sum((Fraction(row[3]) for row in own), Fraction())


def test_learners_side_by_side_lose_nothing_and_never_deadlock(
    stocked: Engine, cluster_map: ClusterMap
) -> None:
    """Four learners add to the same cells in their own orders; the sums are those of one fold, to the bit."""
    rng = np.random.default_rng(7)
    batches: list[list[Row]] = [
        [
            (str(rng.choice(["a", "b"])), int(rng.integers(4)), float(rng.integers(9)) / 16, 0.5)
            for _ in range(40)
        ]
        for _ in range(60)
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: add_rows(stocked, cluster_map.version, batch), batches))
    with transaction(stocked) as session:
        found = CellCounts(session).read(cluster_map.version, ["a", "b"], n_cells=4)

    expected = np.zeros((4, 2, 2))
    for llm, cell, error, weight in (row for batch in batches for row in batch):
        expected[cell, "ab".index(llm)] += (error, weight)
    assert np.array_equal(found.errors, expected[:, :, 0])
    assert np.array_equal(found.labels, expected[:, :, 1])


def test_one_transaction_at_a_time_refits_a_map(stocked: Engine) -> None:
    """The lock is per map, ends with its transaction, and whoever only tries is told that it is taken."""
    with transaction(stocked) as first:
        lock_refits(first, "m1")
        with transaction(stocked) as second:
            same, other = try_lock_refits(second, "m1"), try_lock_refits(second, "m2")
    with transaction(stocked) as third:
        afterwards = try_lock_refits(third, "m1")

    assert (same, other, afterwards) == (False, True, True)
