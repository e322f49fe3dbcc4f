"""PoolPrior: worked by hand on two cells, and its promises on many."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from routing.errors import InvalidInputError
from routing.quality.counts import count_errors
from routing.quality.pool_prior import PoolPrior, fit_pool_prior
from routing.quality.shrinkage import shrink_error_rates

Array = NDArray[np.float64]
SIZES = (2, 4, 8)
RESOLUTIONS = (slice(0, 2), slice(2, 6), slice(6, 14))


def two_cells(*, known_llms: int) -> PoolPrior:
    """Give the prior of the hand-worked cases: level .5 with 20 pseudo-labels."""
    return PoolPrior(
        means=np.array([0.4, 0.6]),
        covariance=np.array([[0.04, 0.02], [0.02, 0.04]]),
        known_llms=known_llms,
        level=0.5,
        level_variance=0.0125,
        sizes=(2,),
    )


def draw_pool(n_llms: int, *, n_prompts: int = 600, seed: int = 0) -> tuple[NDArray[np.int64], Array]:
    """Give cells (n, 3) of a nested map and errors (n, S) whose rates move together by cell."""
    rng = np.random.default_rng(seed)
    finest = rng.integers(0, 8, n_prompts)
    cells = np.column_stack([finest // 4, 2 + finest // 2, 6 + finest])
    rates = draw_rates(n_llms, rng)[finest]
    return cells, (rng.random((n_prompts, n_llms)) < rates).astype(float)


def draw_rates(n_llms: int, rng: np.random.Generator) -> Array:
    """Give true rates (8, H): a difficulty per cell, a level per LLM, and a bent of its own for each pair."""
    difficulty = np.array([0.1, 0.2, 0.3, 0.35, 0.5, 0.6, 0.7, 0.8])[:, None]
    return np.clip(difficulty + rng.normal(0, 0.15, n_llms) + rng.normal(0, 0.1, (8, n_llms)), 0.02, 0.98)


def count(cells: NDArray[np.int64], errors: Array) -> tuple[Array, Array]:
    """Count labels that all LLMs share."""
    n, n_llms = errors.shape
    counts = count_errors(
        np.repeat(cells, n_llms, axis=0),
        np.tile(np.arange(n_llms), n),
        errors.ravel(),
        n_cells=sum(SIZES),
        n_llms=n_llms,
    )
    return counts.errors, counts.labels


def test_two_cells_by_hand() -> None:
    """Eight labels with six errors in the first cell, none in the second; four known LLMs, so w = 1/2.

    p~ = 7/10, s2 = .21, noise .21/8 = .02625; gain .04/.06625 and .02/.06625 on a residual of .75 - .4 = .35:
    g = (.611321, .705660). Own evidence: p = (6 + 10)/28 = 4/7; 8 - 8 - 1 < 0, so kappa = 200:
    b = ((6 + 200 p)/208, p) = (.578297, .571429). Psi is half of each.
    """
    rates = two_cells(known_llms=4).error_rates([[6], [0]], [[8], [0]])

    g = np.array([0.4 + 0.04 * 0.35 / 0.06625, 0.6 + 0.02 * 0.35 / 0.06625])
    b = np.array([(6 + 200 * 4 / 7) / 208, 4 / 7])
    np.testing.assert_allclose(rates[:, 0], (g + b) / 2, rtol=1e-12)
    np.testing.assert_allclose(rates[:, 0], [0.594809, 0.638544], atol=1e-6)


def test_intervals_by_hand() -> None:
    """The same labels leave V = .04 - .04^2/.06625 = .015849 and .04 - .02^2/.06625 = .033962."""
    lower, upper = two_cells(known_llms=4).intervals([[6], [0]], [[8], [0]])

    half = 1.645 * np.sqrt([0.0158491, 0.0339623])
    np.testing.assert_allclose(upper[:, 0], [0.594809 + half[0], 0.638544 + half[1]], atol=1e-5)
    np.testing.assert_allclose(lower[:, 0], [0.594809 - half[0], 0.638544 - half[1]], atol=1e-5)


def test_intervals_of_further_prompts_are_wider_by_their_own_noise() -> None:
    """Over 50 prompts p (1 - p) / 50 comes on top: .015849 + .594809 * .405191 / 50 = .020669."""
    lower, upper = two_cells(known_llms=4).intervals([[6], [0]], [[8], [0]], prompts=[50, 1e12])

    half = 1.645 * np.sqrt([0.0206694, 0.0339623])
    np.testing.assert_allclose((upper - lower)[:, 0] / 2, half, atol=1e-5)
    with pytest.raises(InvalidInputError, match="prompts"):
        two_cells(known_llms=4).intervals([[6], [0]], [[8], [0]], prompts=[50, 0])


def test_pool_weight_grows_with_the_pool() -> None:
    """The weight is max(0, 1 - 2/S): 0, 0, 0, 1/3, 1/2, 9/10 for S = 0, 1, 2, 3, 4, 20."""
    weights = [two_cells(known_llms=known).pool_weight for known in (0, 1, 2, 3, 4, 20)]

    assert weights == pytest.approx([0, 0, 0, 1 / 3, 1 / 2, 9 / 10])


def test_fit_by_hand() -> None:
    """Three LLMs, two cells of two prompts.

    T = (wrong + 1)/4 has the columns (.75, .25), (.25, .25), (.5, .5); m = (1/2, 1/3). The centred columns
    have variances 1/24 and 1/72, no covariance, and so little evidence that Ledoit-Wolf gives both their
    mean, 1/36; Sigma = (1 + 6/3) (3/2) / 36 = 1/8. Levels 1/2, 0, 1/2: mean 1/3, variance 1/18 * (1 + 3/3).
    """
    errors = [[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]]

    prior = fit_pool_prior(np.array([[0], [0], [1], [1]]), errors, sizes=(2,))

    np.testing.assert_allclose(prior.means, [1 / 2, 1 / 3], rtol=1e-14)
    np.testing.assert_allclose(prior.covariance, np.eye(2) / 8, atol=1e-14)
    assert (prior.known_llms, prior.level) == (3, pytest.approx(1 / 3))
    assert prior.level_variance == pytest.approx(1 / 9)


def test_fit_follows_its_formula_on_a_stacked_map() -> None:
    """Smoothed cell rates, Ledoit-Wolf of each resolution by itself, widened for a small pool."""
    cells, errors = draw_pool(12)

    prior = fit_pool_prior(cells, errors, sizes=SIZES)

    wrong, n = count(cells, errors)
    T = (wrong + 1) / (n + 2)
    m = T.mean(axis=1, keepdims=True)
    expected = np.zeros((14, 14))
    for cells_of in RESOLUTIONS:
        fitted = LedoitWolf(assume_centered=True).fit((T - m)[cells_of].T).covariance_
        expected[cells_of, cells_of] = (1 + 6 / 12) * (12 / 11) * fitted
    np.testing.assert_allclose(prior.means, m[:, 0], rtol=1e-12)
    np.testing.assert_allclose(prior.covariance, expected, rtol=1e-10)


def test_estimates_follow_their_formula_on_a_stacked_map() -> None:
    """Psi and V as written, with the plain inverse, on three resolutions and fractional counts."""
    cells, errors = draw_pool(12)
    prior = fit_pool_prior(cells, errors, sizes=SIZES)
    wrong, n = (0.3 * part for part in count(*draw_pool(1, n_prompts=40, seed=5)))

    rates = prior.error_rates(wrong, n)
    lower, upper = prior.intervals(wrong, n)

    e, k = wrong[:, 0], n[:, 0]
    p = (0.3 * draw_pool(1, n_prompts=40, seed=5)[1].sum() + 1) / (12 + 2)
    g, v = prior.means.copy(), prior.covariance.diagonal().copy()
    for cells_of in RESOLUTIONS:
        seen = cells_of.start + np.flatnonzero(k[cells_of])
        sigma = prior.covariance[cells_of][:, seen]
        noise = np.diag(max(p * (1 - p), 0.02) / k[seen])
        gain = sigma @ np.linalg.inv(prior.covariance[np.ix_(seen, seen)] + noise)
        g[cells_of] += gain @ (e[seen] / k[seen] - prior.means[seen])
        v[cells_of] -= np.diag(gain @ sigma.T)
    b = shrink_error_rates(wrong, n, sizes=SIZES, level=prior.level_prior)[:, 0]
    psi = (1 - 2 / 12) * np.clip(g, 0.001, 0.999) + 2 / 12 * b
    half = 1.645 * np.sqrt(v)
    np.testing.assert_allclose(rates[:, 0], psi, rtol=1e-9)
    np.testing.assert_allclose(lower[:, 0], np.clip(psi - half, 0, 1), atol=1e-9)
    np.testing.assert_allclose(upper[:, 0], np.clip(psi + half, 0, 1), atol=1e-9)


@pytest.mark.parametrize("n_known", [0, 1, 2])
def test_with_two_or_fewer_known_llms_it_is_exactly_the_shrunk_rate(n_known: int) -> None:
    """Bit for bit, at every number of labels; its intervals stand around that rate."""
    cells, errors = draw_pool(n_known)
    prior = fit_pool_prior(cells, errors, sizes=SIZES)

    for n_labels in (0, 1, 2, 30, 600):
        new_cells, new_errors = draw_pool(3, seed=9)
        counts = count(new_cells[:n_labels], new_errors[:n_labels])
        shrunk = shrink_error_rates(*counts, sizes=SIZES, level=prior.level_prior)
        lower, upper = prior.intervals(*counts)

        np.testing.assert_array_equal(prior.error_rates(*counts), shrunk)
        assert np.all((lower <= shrunk) & (shrunk <= upper))


def test_flat_prior_of_small_pools() -> None:
    """Fewer than three known LLMs leave m = .5 and, per resolution, Sigma = .06 + .04 I for the intervals."""
    prior = fit_pool_prior(*draw_pool(2), sizes=SIZES)

    np.testing.assert_array_equal(prior.means, np.full(14, 0.5))
    expected = np.zeros((14, 14))
    for cells_of in RESOLUTIONS:
        expected[cells_of, cells_of] = 0.06
    np.testing.assert_allclose(prior.covariance, expected + 0.04 * np.eye(14))


def test_without_labels_all_llms_tie_exactly() -> None:
    """Counts of 0 give every LLM the same bits: w m + (1 - w) p0."""
    prior = fit_pool_prior(*draw_pool(10), sizes=SIZES)

    rates = prior.error_rates(np.zeros((14, 4)), np.zeros((14, 4)))

    np.testing.assert_array_equal(rates, np.repeat(rates[:, :1], 4, axis=1))
    np.testing.assert_allclose(rates[:, 0], 0.8 * prior.means + 0.2 * prior.level, rtol=1e-12)


def test_a_column_does_not_depend_on_its_neighbours() -> None:
    """Onboarding an LLM leaves every other LLM's rates and intervals bit-identical."""
    prior = fit_pool_prior(*draw_pool(10), sizes=SIZES)
    cells, errors = draw_pool(7, n_prompts=50, seed=3)
    wrong, n = count(cells, errors)

    together, (lower, upper) = prior.error_rates(wrong, n), prior.intervals(wrong, n)

    for llm in range(7):
        own = wrong[:, llm : llm + 1], n[:, llm : llm + 1]
        np.testing.assert_array_equal(prior.error_rates(*own)[:, 0], together[:, llm])
        np.testing.assert_array_equal(prior.intervals(*own)[0][:, 0], lower[:, llm])
        np.testing.assert_array_equal(prior.intervals(*own)[1][:, 0], upper[:, llm])


def test_cells_may_be_renumbered() -> None:
    """Relabelling the clusters within a resolution relabels the rates and changes none."""
    cells, errors = draw_pool(10)
    new_cells, new_errors = draw_pool(2, n_prompts=60, seed=4)
    permutation = np.concatenate([[1, 0], 2 + np.array([2, 0, 3, 1]), 6 + np.array([7, 6, 0, 1, 5, 4, 2, 3])])

    plain = fit_pool_prior(cells, errors, sizes=SIZES).error_rates(*count(new_cells, new_errors))
    renamed = fit_pool_prior(permutation[cells], errors, sizes=SIZES)

    swapped = renamed.error_rates(*count(permutation[new_cells], new_errors))
    np.testing.assert_allclose(swapped[permutation], plain, rtol=1e-9)


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_constant_llms_stay_within_bounds(error: float) -> None:
    """An LLM that is always right or always wrong, and known LLMs that are, give rates within [0, 1]."""
    cells, _ = draw_pool(1)
    prior = fit_pool_prior(cells, np.full((600, 5), error), sizes=SIZES)
    counts = count(cells[:100], np.full((100, 1), error))

    rates = prior.error_rates(*counts)

    assert np.all((rates >= 0) & (rates <= 1))
    assert np.all(np.abs(rates - error) < 0.05)


def test_tiny_weights_are_no_evidence() -> None:
    """A label of weight 1e-300 neither divides by zero nor moves the rates."""
    prior = fit_pool_prior(*draw_pool(10), sizes=SIZES)
    tiny = np.full((14, 1), 1e-300)

    rates = prior.error_rates(tiny, tiny)

    np.testing.assert_allclose(rates, prior.error_rates(0 * tiny, 0 * tiny), rtol=1e-12)


def test_intervals_cover_nine_in_ten_true_rates() -> None:
    """LLMs drawn as the pool was drawn: 88 to 97 % of the cells' true rates lie within the 90 % interval."""
    prior = fit_pool_prior(*draw_pool(30, n_prompts=3000), sizes=SIZES)
    rng = np.random.default_rng(1)
    for n_labels in (400, 100, 25):
        cells, _ = draw_pool(1, n_prompts=n_labels, seed=n_labels)
        finest = cells[:, 2] - 6
        true = draw_rates(200, rng)
        wrong, n = count(cells, (rng.random((n_labels, 200)) < true[finest]).astype(float))

        lower, upper = prior.intervals(wrong, n)

        covered = ((lower[6:] <= true) & (true <= upper[6:])).mean()
        assert 0.88 <= covered <= 0.97


def test_few_labels_are_read_better_than_alone() -> None:
    """At 25 labels the squared error of PoolPrior's rates is less than half of the shrunk rates'."""
    prior = fit_pool_prior(*draw_pool(30, n_prompts=3000), sizes=SIZES)
    cells, errors = draw_pool(40, n_prompts=4000, seed=8)
    wrong, n = count(cells, errors)
    few = count(cells[:25], errors[:25])

    pooled = np.mean((prior.error_rates(*few) - wrong / n) ** 2)
    alone = np.mean((shrink_error_rates(*few, sizes=SIZES) - wrong / n) ** 2)

    assert pooled < 0.5 * alone


def test_saved_and_read_it_is_the_same_bit_for_bit() -> None:
    """``from_bytes`` gives the prior that ``to_bytes`` wrote; the same prior writes the same bytes."""
    prior = fit_pool_prior(*draw_pool(10), sizes=SIZES)

    read = PoolPrior.from_bytes(prior.to_bytes())

    counts = count(*draw_pool(2, n_prompts=60, seed=4))
    np.testing.assert_array_equal(read.error_rates(*counts), prior.error_rates(*counts))
    assert read.to_bytes() == prior.to_bytes()


@pytest.mark.parametrize("data", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_what_is_no_saved_prior_is_refused(data: bytes) -> None:
    """Damaged or foreign bytes raise ``InvalidInputError`` and nothing else."""
    with pytest.raises(InvalidInputError):
        PoolPrior.from_bytes(data)


def test_it_cannot_be_changed() -> None:
    """The prior is part of a map's version: its arrays are read-only."""
    prior = fit_pool_prior(*draw_pool(10), sizes=SIZES)

    with pytest.raises(ValueError, match="read-only"):
        prior.means[0] = 0.0


def test_unknown_outcomes_of_known_llms_are_refused() -> None:
    """NaN among the known LLMs' errors, or cells of another map, is an error."""
    cells, errors = draw_pool(4)
    errors[3, 1] = np.nan

    with pytest.raises(InvalidInputError, match="NaN"):
        fit_pool_prior(cells, errors, sizes=SIZES)
    with pytest.raises(InvalidInputError, match="cells"):
        fit_pool_prior(cells[:, :2], np.nan_to_num(errors), sizes=SIZES)
