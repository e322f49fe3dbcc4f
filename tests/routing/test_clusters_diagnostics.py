"""Diagnostics by hand: coverage, margins, bias, deviation, ties."""

import math

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.clusters.diagnostics import (
    assignment_margins,
    cell_bias,
    cell_deviation,
    measure_coverage,
    neighbour_errors,
    share_of_ties,
)
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError

#: Four points of the compass; resolutions: one cell at the origin, then east, north and a far west.
COMPASS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float32)
MAP = ClusterMap(
    centroids=np.array([[0, 0], [1, 0], [0, 1], [-9, 0]], dtype=np.float32),
    sizes=(1, 3),
    temperature=math.inf,
    fingerprint=Fingerprint(name="tests", dimension=2, precision="f32", max_length=1, checksum=""),
)


def test_margins_by_hand() -> None:
    """East is 0 from its centroid and sqrt 2 from the next; a resolution of one cell has no second."""
    margins = assignment_margins(MAP, COMPASS)

    assert np.all(np.isinf(margins[:, 0]))
    assert margins[:, 1] == pytest.approx([math.sqrt(2), math.sqrt(2), 2 - math.sqrt(2), 2 - math.sqrt(2)])


def test_coverage_by_hand() -> None:
    """East holds east and south, north holds north and west, the far west nothing."""
    coverage = measure_coverage(MAP, COMPASS)

    assert coverage.prompts.tolist() == [4, 2, 2, 0]
    assert coverage.shares.tolist() == [1, 0.5, 0.5, 0]
    assert coverage.spreads[:3] == pytest.approx([1, 1, 1])
    assert np.isnan(coverage.spreads[3])
    assert coverage.empty_cells.tolist() == [3]


def test_neighbour_errors_leave_the_prompt_itself_out() -> None:
    """The nearest other prompt speaks for each; more neighbours than there are means all others."""
    X = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    wrong = np.array([[1.0], [0.0], [0.5]])

    assert neighbour_errors(X, wrong, k=1).ravel().tolist() == [0.0, 1.0, 0.0]
    assert neighbour_errors(X, wrong, k=9).ravel() == pytest.approx([0.25, 0.75, 0.5])
    with pytest.raises(InvalidInputError):
        neighbour_errors(X[:1], wrong[:1])


def test_bias_is_seen_where_a_cell_mixes_two_kinds() -> None:
    """A cell of two bunches, always wrong and always right, at a rate of .5: .5 off, less the noise.

    Local error is 1 or 0, so the mean square is .25; the noise of 10 labels at .5 is .025: sqrt(.225) = .474.
    """
    near_east = np.stack([np.cos(np.linspace(0, 0.1, 30)), np.sin(np.linspace(0, 0.1, 30))], axis=1)
    near_south = near_east[:, ::-1] * [1, -1]
    X = np.concatenate([near_east, near_south]).astype(np.float32)
    wrong = np.repeat([[1.0], [0.0]], 30, axis=0)
    rates = np.full((4, 1), 0.5)

    bias = cell_bias(MAP, X, wrong, rates, k=10)

    assert bias[1, 0] == pytest.approx(math.sqrt(0.225))
    assert np.isnan(bias[3, 0])


def test_deviation_by_hand() -> None:
    """.5 from 25 labels is known to .1; from none, not at all; 75 pseudo-labels halve it."""
    rates, labels = np.array([[0.5], [0.5]]), np.array([[25.0], [0.0]])

    assert cell_deviation(rates, labels).ravel().tolist() == [0.1, math.inf]
    assert cell_deviation(rates, labels, strength=75.0)[0, 0] == pytest.approx(0.05)


def test_ties_are_counted_at_the_least_error_only() -> None:
    """Two LLMs at the least error tie; two that share a greater one do not."""
    errors = np.array([[0.1, 0.1, 0.5], [0.1, 0.5, 0.5]])

    assert share_of_ties(errors) == 0.5
    assert share_of_ties(np.empty((0, 3))) == 0
