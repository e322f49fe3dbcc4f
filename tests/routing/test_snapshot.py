"""A snapshot holds what it was given, in order, unchangeable, or does not come to be."""

from collections.abc import Mapping

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError, UnknownLLMError
from routing.llms import LLM, Price
from routing.snapshot import Snapshot, Versions

MAP = ClusterMap(
    centroids=np.eye(3, dtype=np.float32),
    sizes=(1, 2),
    temperature=4.0,
    fingerprint=Fingerprint(name="tests", dimension=3, precision="f32", max_length=1, checksum=""),
)
PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)


def parts(**changes: object) -> Mapping[str, object]:
    """The arguments of a sound snapshot of two LLMs, with changes."""
    return {
        "cluster_map": MAP,
        "llms": (LLM(name="a", price=PRICE), LLM(name="b", price=PRICE)),
        "error_rates": np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
        "output_tokens": np.array([10.0, 20.0]),
        "versions": Versions(error_rates="7", prices="3"),
    } | changes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("llms", (LLM(name="b", price=PRICE), LLM(name="a", price=PRICE))),
        ("llms", (LLM(name="a", price=PRICE), LLM(name="a", price=PRICE))),
        ("error_rates", np.full((2, 2), 0.5)),
        ("error_rates", np.full((3, 2), np.nan)),
        ("error_rates", np.full((3, 2), 1.5)),
        ("error_deviations", np.full((3, 3), 0.1)),
        ("output_tokens", np.ones(3)),
        ("output_tokens", np.array([1.0, np.inf])),
    ],
)
def test_parts_that_do_not_fit_are_named(field: str, value: object) -> None:
    """Shapes, ranges and the order of names are checked once, here."""
    with pytest.raises(InvalidInputError) as caught:
        Snapshot(**parts(**{field: value}))

    assert caught.value.field == field


def test_arrays_are_read_only_copies() -> None:
    """What the caller does to its arrays later does not reach a decision."""
    rates = np.full((3, 2), 0.5)
    held = Snapshot(**parts(error_rates=rates))
    rates[0, 0] = 1

    assert held.error_rates[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        held.error_rates[0, 0] = 0


def test_rates_are_kept_to_four_billionths() -> None:
    """Rates are rounded to multiples of 2**-28, which is what makes their sums exact."""
    held = Snapshot(**parts())

    assert np.abs(held.error_rates - parts()["error_rates"]).max() <= 2**-29
    assert np.array_equal(held.error_rates * 2**28, np.rint(held.error_rates * 2**28))


def test_constant_llms_tie_exactly() -> None:
    """LLMs of equal rates in every cell are predicted the same error, to the bit: ties are real ties."""
    held = Snapshot(**parts(error_rates=np.full((3, 2), 0.3)))
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)

    errors = held.predict_errors(MAP.weights(rows))

    assert np.array_equal(errors[:, 0], errors[:, 1])


def test_adding_an_llm_moves_no_other_prediction() -> None:
    """Another column changes no bit of the first two."""
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    weights = MAP.weights(rows)
    two = Snapshot(**parts())
    three = Snapshot(
        **parts(
            llms=(*two.llms, LLM(name="c", price=PRICE)),
            error_rates=np.column_stack([two.error_rates, [0.9, 0.1, 0.2]]),
            output_tokens=np.array([10.0, 20.0, 5.0]),
        )
    )

    assert np.array_equal(three.predict_errors(weights)[:, :2], two.predict_errors(weights))


def test_columns_by_name() -> None:
    """An LLM is found by its name; another name is told what there is."""
    held = Snapshot(**parts())

    assert held.column("b") == 1
    with pytest.raises(UnknownLLMError, match="registered: a, b"):
        held.column("z")


def test_deviations_are_mixed_like_errors() -> None:
    """Known deviations are mixed by the weights; unknown ones stay ``None``."""
    weights = np.array([[0.5, 0.25, 0.25]], dtype=np.float32)
    known = Snapshot(**parts(error_deviations=np.array([[0.5, 0.25], [0.25, 0.25], [0.25, 0.25]])))

    assert known.predict_deviations(weights) == pytest.approx(np.array([[0.375, 0.25]]))
    assert Snapshot(**parts()).predict_deviations(weights) is None


def test_weights_of_another_map_are_refused() -> None:
    """Weights must have one column per cell."""
    with pytest.raises(InvalidInputError, match="weights"):
        Snapshot(**parts()).predict_errors(np.ones((1, 4), dtype=np.float32))
