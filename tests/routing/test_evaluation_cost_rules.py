"""What the rule may know of costs: means, or each prompt's own, learned from what was labelled alone."""

from dataclasses import replace

import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.evaluation import RecordedOutcomes, RecordedUsage, draw_trials, mean_costs, prompt_costs

N, N_LLMS = 800, 6
TOPICS = np.arange(N) % 4
#: Tokens that answers have on each topic.
LENGTHS = np.array([50.0, 100.0, 400.0, 1000.0])


def make_outcomes(*, with_usage: bool = True) -> RecordedOutcomes:
    """Four topics as four directions; LLM k takes LENGTHS[topic] tokens, scattered, at k + 1 USD per Mtok."""
    rng = np.random.default_rng(0)
    embeddings = np.eye(4, 8)[TOPICS] + 0.05 * rng.standard_normal((N, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    output = LENGTHS[TOPICS][:, None] * rng.lognormal(0, 0.3, (N, N_LLMS))
    input_tokens = np.full((N, N_LLMS), 200.0)
    prices = np.arange(1.0, N_LLMS + 1) / 1e6 * np.ones((2, 1))
    rows = np.arange(N)
    return RecordedOutcomes(
        llms=tuple(f"llm-{llm}" for llm in range(N_LLMS)),
        embeddings=embeddings.astype(np.float32),
        scores=np.ones((N, N_LLMS)),
        costs=input_tokens * prices[0] + output * prices[1],
        train=rows[:400],
        val=rows[400:600],
        test=rows[600:],
        usage=RecordedUsage(input_tokens=input_tokens, output_tokens=output, prices=prices)
        if with_usage
        else None,
    )


OUTCOMES = make_outcomes()
(TRIAL,) = draw_trials(N_LLMS, 200, trials=1, seed=0)


def test_mean_costs_by_hand() -> None:
    """Costs 1 and 3 of one LLM, 2 and 2 of the other: 2 and 2."""
    costs = np.zeros((N, N_LLMS))
    costs[np.ix_([400, 401], TRIAL.unseen)] = [[1.0, 2.0], [3.0, 2.0]]

    assert mean_costs(replace(OUTCOMES, costs=costs), TRIAL, np.array([400, 401])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("with_usage", [True, False])
def test_each_prompt_is_expected_to_cost_what_its_topic_does(*, with_usage: bool) -> None:
    """Within a quarter of (200 + mean length of its topic) x price; e^(.3^2 / 2) = 1.046 times the median."""
    outcomes = make_outcomes(with_usage=with_usage)
    expected = prompt_costs(outcomes, TRIAL, outcomes.val)
    price = (TRIAL.unseen + 1) / 1e6

    topics = TOPICS[outcomes.test]
    for topic in range(4):
        wanted = (200 + 1.046 * LENGTHS[topic]) * price

        assert expected[topics == topic].mean(axis=0) == pytest.approx(wanted, rel=0.25)


def test_an_llm_that_charges_alike_is_expected_to() -> None:
    """List prices per call: the mean, to the bit, so that nothing changes where there is nothing to know."""
    costs = np.tile(np.arange(1.0, N_LLMS + 1), (N, 1))
    outcomes = replace(OUTCOMES, costs=costs, usage=None)

    assert np.array_equal(
        prompt_costs(outcomes, TRIAL, outcomes.val),
        np.tile(mean_costs(outcomes, TRIAL, outcomes.val), (len(outcomes.test), 1)),
    )


@pytest.mark.parametrize("with_usage", [True, False])
def test_only_what_was_labelled_is_used(*, with_usage: bool) -> None:
    """Other costs and lengths of the unseen LLMs may be anything."""
    outcomes = make_outcomes(with_usage=with_usage)
    labelled = outcomes.val[:50]
    hidden = np.ix_(np.setdiff1d(np.arange(N), labelled), TRIAL.unseen)
    costs = outcomes.costs.copy()
    costs[hidden] *= 7
    usage = outcomes.usage
    if usage is not None:
        output = usage.output_tokens.copy()
        output[hidden] *= 7
        usage = replace(usage, output_tokens=output)

    other = prompt_costs(replace(outcomes, costs=costs, usage=usage), TRIAL, labelled)

    assert np.array_equal(other, prompt_costs(outcomes, TRIAL, labelled))


def test_free_llms_are_expected_to_be_free() -> None:
    """0 is a price."""
    outcomes = replace(OUTCOMES, costs=np.zeros((N, N_LLMS)), usage=None)

    assert not prompt_costs(outcomes, TRIAL, outcomes.val).any()


def test_impossible_usage_is_refused() -> None:
    """NaN tokens, and tokens of another set of prompts."""
    few = np.ones((3, 2))

    assert OUTCOMES.usage is not None
    with pytest.raises(InvalidInputError, match="output_tokens"):
        replace(OUTCOMES.usage, output_tokens=np.full((N, N_LLMS), np.nan))
    with pytest.raises(InvalidInputError, match="usage"):
        replace(OUTCOMES, usage=RecordedUsage(input_tokens=few, output_tokens=few, prices=np.ones((2, 2))))
