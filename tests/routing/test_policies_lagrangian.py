"""The default rule: extremes, ties, and no trust in the order of registration."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from routing.errors import InvalidInputError
from routing.policies import Candidates, Lagrangian

RNG = np.random.default_rng(0)


def candidates(
    errors: list[list[float]], costs: list[list[float]], allowed: list[list[bool]] | None = None
) -> Candidates:
    """LLMs a, b, c, ..."""
    held = np.array(errors, dtype=float)
    return Candidates(
        errors=held,
        costs=np.array(costs, dtype=float),
        allowed=np.ones(held.shape, dtype=bool) if allowed is None else np.array(allowed),
        names=tuple("abcdefgh"[: held.shape[1]]),
    )


def choose(policy: Lagrangian, offered: Candidates) -> list[int]:
    """Columns chosen."""
    return policy.choose(offered, rng=RNG).llms.tolist()


def test_lambda_weighs_error_against_cost() -> None:
    """.3 + 100 x .001 = .40 beats .1 + 100 x .004 = .50; at lambda 50 it is .35 against .30."""
    offered = candidates([[0.3, 0.1]], [[0.001, 0.004]])

    assert choose(Lagrangian(100), offered) == [0]
    assert choose(Lagrangian(50), offered) == [1]


def test_lambda_zero_is_the_least_error() -> None:
    """At 0 the cost decides only between equal errors."""
    offered = candidates([[0.2, 0.1, 0.1]], [[0.0, 9.0, 8.0]])

    assert choose(Lagrangian(0), offered) == [2]


@pytest.mark.parametrize("error_per_usd", [math.inf, 1e300, 1e12])
def test_lambda_infinite_is_the_cheapest(error_per_usd: float) -> None:
    """At infinity, and far before, the cheapest wins; of equally cheap ones the less wrong."""
    offered = candidates([[0.1, 0.9, 0.8], [0.5, 0.4, 0.3]], [[5e-5, 1e-5, 1e-5], [0.0, 0.0, 1e-9]])

    assert choose(Lagrangian(error_per_usd), offered) == [2, 1]


def test_overflow_still_finds_the_cheapest() -> None:
    """Scores too great for a float tie at infinity, where the cost decides."""
    offered = candidates([[0.1, 0.9]], [[1e10, 1e9]])

    assert choose(Lagrangian(1e307), offered) == [1]


def test_ties_go_to_the_cheaper_then_to_the_name() -> None:
    """Equal scores: .5 + 1 x .25 = .25 + 1 x .5, the cheaper wins; equal in all, the first name."""
    offered = candidates([[0.25, 0.5], [0.5, 0.5]], [[0.5, 0.25], [0.1, 0.1]])

    assert choose(Lagrangian(1), offered) == [1, 0]


def test_removed_llms_are_never_chosen() -> None:
    """Only what is allowed competes, and a row without any is -1 with propensity 0."""
    offered = candidates([[0.1, 0.2], [0.1, 0.2]], [[0.0, 1.0], [0.0, 1.0]], [[False, True], [False, False]])

    choices = Lagrangian(1).choose(offered, rng=RNG)

    assert choices.llms.tolist() == [1, -1]
    assert choices.propensities.tolist() == [1.0, 0.0]
    assert np.all(np.isnan(choices.draws))


# Few distinct values, so that ties are the rule and not the exception.
_LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(
    errors=arrays.arrays(float, (6, 5), elements=_LEVELS),
    costs=arrays.arrays(float, (6, 5), elements=_LEVELS),
    allowed=arrays.arrays(bool, (6, 5)),
    error_per_usd=st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]),
)
@settings(max_examples=200)
def test_rule_is_the_least_of_score_cost_error_name(
    errors: np.ndarray, costs: np.ndarray, allowed: np.ndarray, error_per_usd: float
) -> None:
    """Every choice is the least tuple (score, cost, error, name) of the allowed, as Python compares."""
    offered = Candidates(errors=errors, costs=costs, allowed=allowed, names=tuple("abcde"))
    expected = []
    for row in range(6):
        tuples = [
            (
                cost if math.isinf(error_per_usd) else error + error_per_usd * cost,
                cost,
                error,
                column,
            )
            for column, (error, cost) in enumerate(zip(errors[row], costs[row], strict=True))
            if allowed[row, column]
        ]
        expected.append(min(tuples)[-1] if tuples else -1)

    assert choose(Lagrangian(error_per_usd), offered) == expected


@given(order=st.permutations(range(5)), error_per_usd=st.sampled_from([0.0, 1.0, math.inf]))
@settings(max_examples=60)
def test_registration_order_changes_no_decision(order: list[int], error_per_usd: float) -> None:
    """LLMs registered in any order, then put in order of name as a snapshot does, give the same choices."""
    levels = np.random.default_rng(1).integers(0, 3, size=(2, 40, 5)) / 2
    names = ("e", "a", "d", "b", "c")

    def route(registered: list[int]) -> list[str]:
        by_name = sorted(registered, key=lambda column: names[column])
        offered = Candidates(
            errors=levels[0][:, by_name],
            costs=levels[1][:, by_name],
            allowed=np.ones((40, 5), dtype=bool),
            names=tuple(names[column] for column in by_name),
        )
        return [offered.names[column] for column in choose(Lagrangian(error_per_usd), offered)]

    assert route(list(order)) == route(list(range(5)))


@pytest.mark.parametrize("impossible", [-1.0, math.nan])
def test_impossible_lambda_is_refused(impossible: float) -> None:
    """Lambda is at least 0."""
    with pytest.raises(InvalidInputError, match="error_per_usd"):
        Lagrangian(impossible)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("errors", {"errors": np.array([[np.nan, 0.1]])}),
        ("costs", {"costs": np.array([[np.inf, 0.1]])}),
        ("costs", {"costs": np.ones((1, 3))}),
        ("names", {"names": ("b", "a")}),
        ("names", {"names": ("a", "a")}),
    ],
)
def test_candidates_that_cannot_be_compared_are_refused(field: str, changes: dict[str, object]) -> None:
    """NaN, infinity, odd shapes and names out of order never reach a policy."""
    parts = {
        "errors": np.ones((1, 2)),
        "costs": np.ones((1, 2)),
        "allowed": np.ones((1, 2), dtype=bool),
        "names": ("a", "b"),
    }

    with pytest.raises(InvalidInputError) as caught:
        Candidates(**(parts | changes))

    assert caught.value.field == field
