"""Counting labels: one count per resolution, weights and fractions kept, bad input named."""

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.quality.counts import count_errors


def test_labels_are_added_up_per_cell_and_llm() -> None:
    """Each label counts once in every resolution; cells and LLMs without labels stay 0."""
    cells = [[0, 2], [0, 3], [1, 3]]

    counts = count_errors(cells, [0, 0, 1], [1.0, 0.25, 0.5], n_cells=4, n_llms=3)

    np.testing.assert_array_equal(counts.labels, [[2, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(counts.errors, [[1.25, 0, 0], [0, 0.5, 0], [1, 0, 0], [0.25, 0.5, 0]])


def test_a_weight_of_two_counts_as_two_labels() -> None:
    """Trust scales both sums, so a doubled weight equals the label given twice."""
    once = count_errors([[0], [1]], [0, 0], [1.0, 0.5], [2.0, 0.5], n_cells=2, n_llms=1)

    np.testing.assert_array_equal(once.labels, [[2.0], [0.5]])
    np.testing.assert_array_equal(once.errors, [[2.0], [0.25]])


def test_counts_of_two_batches_add_up() -> None:
    """Two batches added give what one batch of both gives, in either order."""
    first = count_errors([[0], [1]], [0, 1], [1.0, 0.0], n_cells=2, n_llms=2)
    second = count_errors([[1]], [1], [1.0], n_cells=2, n_llms=2)
    both = count_errors([[0], [1], [1]], [0, 1, 1], [1.0, 0.0, 1.0], n_cells=2, n_llms=2)

    for total in (first + second, second + first):
        np.testing.assert_array_equal(total.errors, both.errors)
        np.testing.assert_array_equal(total.labels, both.labels)


def test_no_label_gives_zeros() -> None:
    """An empty batch of a map of one resolution is no special case."""
    counts = count_errors(np.empty((0, 1), dtype=int), [], [], n_cells=2, n_llms=3)

    np.testing.assert_array_equal(counts.labels, np.zeros((2, 3)))
    np.testing.assert_array_equal(counts.errors, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("cells", ([[2]], [0], [1.0])),
        ("cells", ([[-1]], [0], [1.0])),
        ("cells", ([[0.5]], [0], [1.0])),
        ("cells", ([0], [0], [1.0])),
        ("cells", ([[0], [1]], [0], [1.0])),
        ("llms", ([[0]], [1], [1.0])),
        ("errors", ([[0]], [0], [np.nan])),
        ("errors", ([[0]], [0], [1.5])),
        ("errors", ([[0]], [0], [1.0, 0.0])),
        ("weights", ([[0]], [0], [1.0], [-1.0])),
        ("weights", ([[0]], [0], [1.0], [np.nan])),
        ("weights", ([[0]], [0], [1.0], [1.0, 1.0])),
    ],
)
def test_bad_labels_are_refused_by_field(field: str, arguments: tuple[object, ...]) -> None:
    """Numbers out of range, NaN and shapes that do not match name the argument at fault."""
    with pytest.raises(InvalidInputError) as caught:
        count_errors(*arguments, n_cells=2, n_llms=1)  # type: ignore[arg-type]

    assert caught.value.field == field
