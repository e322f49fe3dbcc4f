import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from routing.learning import cap_masses, combine_counts, estimate_trust
from routing.quality.counts import ErrorCounts


def counts_of(wrong: float, labels: float, *, cells: int = 4, llms: int = 3) -> ErrorCounts:
    """The same counts in every cell."""
    return ErrorCounts(errors=np.full((cells, llms), wrong), labels=np.full((cells, llms), labels))


def test_a_source_that_always_contradicts_the_others_is_flagged_and_they_are_not() -> None:
    """Rates of .2 against .8: off by .6 in each of 12 cells; the rest agree and keep full trust."""
    counts = {"a": counts_of(20, 100), "b": counts_of(20, 100), "liar": counts_of(80, 100)}

    trust = estimate_trust(counts, dict.fromkeys(counts, 1.0), n_groups=4)

    assert trust["liar"].flagged
    assert trust["liar"].bias == pytest.approx(0.6, abs=0.01)
    assert (trust["a"].trust, trust["b"].trust) == (1.0, 1.0)


def test_differences_within_chance_cost_no_trust() -> None:
    """Rates of .45 and .55 on 20 labels a cell: chi-square 4.6 of 12 cells, far below its mean of 12."""
    counts = {"a": counts_of(9, 20), "b": counts_of(11, 20)}

    trust = estimate_trust(counts, dict.fromkeys(counts, 1.0), n_groups=4)

    assert trust["a"].trust == trust["b"].trust == 1.0
    assert trust["a"].bias == 0.0


def test_trust_falls_with_the_bias_that_is_beyond_chance() -> None:
    """Twelve cells of 10,000 labels off by .05: chi-square 800.9, precision 320,363, z 3.0902.

    Noncentrality is at least 788.9 + 19.1 - 3.0902 sqrt(3155.6 + 38.2 + 24) = 632.7: a bias of .0444 of .15.
    """
    counts = {"a": counts_of(5_000, 10_000), "b": counts_of(5_000, 10_000), "c": counts_of(5_500, 10_000)}

    trust = estimate_trust(counts, dict.fromkeys(counts, 1.0), n_groups=4)

    assert trust["c"].bias == pytest.approx(0.05, abs=0.002)
    assert trust["c"].trust == pytest.approx(1 - 0.0444 / 0.15, abs=0.001)
    assert not trust["c"].flagged


def test_a_source_with_nothing_to_be_held_against_keeps_its_trust() -> None:
    """No other source scored the same cell."""
    trust = estimate_trust({"a": counts_of(90, 100)}, {"a": 1.0}, n_groups=4)

    assert trust["a"].trust == 1.0
    assert trust["a"].compared == 0.0


def test_labels_of_our_own_are_never_doubted() -> None:
    """One anchor outlives two sources that agree on something else."""
    counts = {"labels": counts_of(20, 100), "x": counts_of(80, 100), "y": counts_of(80, 100)}

    trust = estimate_trust(counts, dict.fromkeys(counts, 1.0), n_groups=4, anchors=frozenset({"labels"}))

    assert trust["labels"].trust == 1.0
    assert trust["x"].flagged
    assert trust["y"].flagged


def test_a_source_of_weight_0_leaves_no_trace() -> None:
    """Counts with a flagged source equal, bit for bit, those without it."""
    rng = np.random.default_rng(0)
    labels = rng.random((3, 4, 3)) * 7
    counts = {
        name: ErrorCounts(errors=own * 0.3, labels=own) for name, own in zip("abx", labels, strict=True)
    }
    weights = {"a": 0.7, "b": 0.3, "x": 0.0}

    both = combine_counts(counts, weights, caps={"b": 0.4})
    without = combine_counts({name: counts[name] for name in "ab"}, weights, caps={"b": 0.4})

    assert np.array_equal(both.errors, without.errors)
    assert np.array_equal(both.labels, without.labels)


def test_counts_add_up_by_weight() -> None:
    """1.0 x (2 of 4) and .5 x (4 of 4): 4 wrong of 6."""
    combined = combine_counts({"a": counts_of(2, 4), "b": counts_of(4, 4)}, {"a": 1.0, "b": 0.5})

    assert np.all(combined.errors == 4.0)
    assert np.all(combined.labels == 6.0)


def test_no_source_at_all_is_refused() -> None:
    """There is nothing to add."""
    with pytest.raises(InvalidInputError):
        combine_counts({"a": counts_of(2, 4)}, {"a": 0.0})


@pytest.mark.parametrize(
    ("masses", "caps", "kept"),
    [
        # 100 may be no more than half: as much as the 10 of the other.
        ((100, 10), (0.5, 1.0), (10, 10)),
        # 30 % beside 70: 30 of 100.
        ((70, 200), (1.0, 0.3), (70, 30)),
        # Below its cap already.
        ((70, 20), (1.0, 0.3), (70, 20)),
        # Alone: a cap of 30 % is scaled up to all.
        ((50, 0), (0.3, 0.3), (50, 0)),
        # Caps that sum to .6 are scaled to .5 each: as much as the lesser.
        ((40, 8), (0.3, 0.3), (8, 8)),
    ],
)
def test_caps_hold(masses: tuple[float, ...], caps: tuple[float, ...], kept: tuple[float, ...]) -> None:
    """Each source makes up at most its share of what is left."""
    found = cap_masses(np.array(masses, dtype=float)[:, None], np.array(caps))

    assert found[:, 0] == pytest.approx(kept)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.01, 1e4), st.floats(0.05, 1.0)), min_size=1, max_size=6),
)
def test_capped_masses_are_within_their_caps_and_never_grow(sources: list[tuple[float, float]]) -> None:
    """For any masses and caps; caps that sum to less than 1 are scaled up."""
    masses, caps = np.array(sources).T

    kept = cap_masses(masses[:, None], caps)[:, 0]

    shares = caps / min(1.0, caps.sum())
    assert np.all(kept <= masses * (1 + 1e-9))
    assert np.all(kept <= shares * kept.sum() * (1 + 1e-6))
    assert kept.sum() > 0
