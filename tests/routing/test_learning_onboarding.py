import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.learning import (
    StoppingRule,
    cautious_rates,
    deal_probes,
    expected_losses,
    label_until_settled,
    spread_lambdas,
)
from routing.quality.pool_prior import fit_pool_prior


def test_a_tie_costs_s_over_the_root_of_2_pi() -> None:
    """Gap 0 and deviation .1: .1 pdf(0) = .03989; a rival known exactly costs nothing."""
    losses = expected_losses(np.array([[0.4, 0.4]]), np.array([[0.1, 0.0]]), [1.0, 1.0], [0.0])

    assert losses[0] == pytest.approx(0.0398942, abs=1e-6)
    assert losses[1] == pytest.approx(0.0, abs=1e-6)


def test_a_gap_of_one_deviation_costs_a_fifth_of_that() -> None:
    """At z = 1: .1 (pdf(1) - sf(1)) = .1 (.24197 - .15866) = .008332."""
    losses = expected_losses(np.array([[0.4, 0.5]]), np.full((1, 2), 0.1), [0.0, 0.0], [0.0])

    assert losses == pytest.approx([0.008332, 0.008332], abs=1e-6)


def test_cost_widens_the_gap_at_a_lambda() -> None:
    """.1 dearer at lambda 1 brings a tie to z = 1; averaged with lambda 0: (.03989 + .00833) / 2."""
    losses = expected_losses(np.full((1, 2), 0.4), np.full((1, 2), 0.1), [0.0, 0.1], [0.0, 1.0])

    assert losses == pytest.approx([0.0241132, 0.0241132], abs=1e-6)


def test_an_llm_alone_has_nothing_to_decide() -> None:
    """No rival, no loss: it stops at the fewest labels."""
    losses = expected_losses(np.array([[0.4]]), np.array([[0.5]]), [1.0], [0.0])

    assert losses.tolist() == [0.0]
    assert not StoppingRule(fewest=20).wants_more(losses, [20]).any()


def test_labelling_goes_on_while_a_label_is_worth_its_price() -> None:
    """At .001 a label: .03 over 20 labels is more, over 31 less; none below the fewest, none at the most."""
    rule = StoppingRule(label_value=0.001, fewest=20, most=40)

    assert rule.wants_more([0.03, 0.03, 0.0, 9.0], [20, 31, 19, 40]).tolist() == [True, False, True, False]


def test_lambdas_spread_over_budgets() -> None:
    """Ten prompts that gain .05, .15, ... from the dear LLM: lambda sends the right share of them to it."""
    gains = (np.arange(10) + 0.5) / 10
    errors = np.column_stack([np.full(10, 1.0), 1.0 - gains])

    lambdas = spread_lambdas(errors, [0.0, 1.0], points=3)

    shares = [float((gains > rate).mean()) for rate in lambdas]
    assert shares == pytest.approx([0.0, 0.5, 1.0], abs=0.1)


def test_llms_that_cost_the_same_leave_one_lambda() -> None:
    """Nothing is to be traded."""
    assert spread_lambdas(np.full((2, 2), 0.5), [3.0, 3.0], points=4).tolist() == [0.0] * 4


def test_any_first_probes_hold_the_clusters_in_proportion() -> None:
    """Clusters of 60, 30 and 10: of the first 20, 12, 6 and 2, give or take 1."""
    cells = np.repeat([0, 1, 2], [60, 30, 10])

    order = deal_probes(cells, rng=np.random.default_rng(0))

    assert sorted(order.tolist()) == list(range(100))
    for first in (10, 20, 50):
        dealt = np.bincount(cells[order[:first]], minlength=3)
        assert np.all(np.abs(dealt - first * np.array([0.6, 0.3, 0.1])) <= 1)


def test_probes_follow_the_traffics_mix_and_not_the_files() -> None:
    """A file of 90 and 10 under a traffic of 50 and 50: ten of each among the first 20."""
    cells = np.repeat([0, 1, 2], [90, 10, 5])

    order = deal_probes(cells, rng=np.random.default_rng(0), masses=[500.0, 500.0, 0.0])

    assert sorted(order.tolist()) == list(range(105))
    assert np.all(np.abs(np.bincount(cells[order[:20]], minlength=3) - [10, 10, 0]) <= 1)
    assert cells[order[-5:]].tolist() == [2] * 5


def test_a_batch_is_what_is_missing_by_the_present_loss() -> None:
    """A loss of .0072 at 20 labels falls to label value times labels at sqrt(.0072 * 20 / .0001) = 38."""
    rule = StoppingRule(label_value=1e-4, fewest=20, most=40, batch=5)

    assert rule.next_batch(0.0072, 12) == 8
    assert rule.next_batch(0.0072, 20) == 18
    assert rule.next_batch(0.0021, 20) == 5
    assert rule.next_batch(0.5, 30) == 10
    assert rule.next_batch(0.0019, 20) == rule.next_batch(0.5, 40) == 0


def test_llms_are_labelled_side_by_side_until_none_wants_more() -> None:
    """The first is settled at once; of the second prompts run out; half of the third's have no answer."""
    rule, asked = StoppingRule(label_value=1e-3, fewest=10, most=40, batch=10), list[tuple[int, int]]()

    def ask(llm: int, count: int) -> int | None:
        asked.append((llm, count))
        if llm == 1 and len(asked) > 3:
            return None
        return (count + 1) // 2 if llm == 2 else count

    labels, settled = label_until_settled(rule, [0, 0, 0], weigh=lambda: [0.0, 1.0, 0.0], ask=ask)

    assert asked[:3] == [(0, 10), (1, 10), (2, 10)]
    assert [count for llm, count in asked if llm == 2] == [10, 5, 2, 1]
    assert (labels[:2].tolist(), settled.tolist()) == ([10, 10], [True, False, True])


def test_until_labels_suffice_an_llm_stands_at_its_upper_end() -> None:
    """The LLM that is probed moves up; the other's bits are those of the estimate."""
    rng = np.random.default_rng(0)
    prior = fit_pool_prior(rng.integers(3, size=(60, 1)), rng.random((60, 4)), sizes=(3,))
    labels = np.full((3, 2), 5.0)
    errors = np.full((3, 2), 1.0)

    cautious = cautious_rates(prior, errors, labels, probing=[True, False])

    assert np.array_equal(cautious[:, 0], prior.intervals(errors, labels)[1][:, 0])
    assert np.array_equal(cautious[:, 1], prior.error_rates(errors, labels)[:, 1])
    assert np.all(cautious[:, 0] > cautious[:, 1])


@pytest.mark.parametrize(
    "wrong", [{"label_value": 0.0}, {"fewest": 0}, {"fewest": 50, "most": 40}, {"batch": 0}]
)
def test_a_rule_that_cannot_be_followed_is_refused(wrong: dict[str, float]) -> None:
    """Values out of range."""
    with pytest.raises(InvalidInputError):
        StoppingRule(**wrong)
