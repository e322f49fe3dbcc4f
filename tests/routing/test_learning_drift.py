import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.learning import DriftRule, DriftState, Watch, follow_llm, watch_errors


def feed(
    rule: DriftRule, errors: np.ndarray, *, predicted: float = 0.4
) -> tuple[DriftState, int | None, str]:
    """Watch from the start; give the state, and row and kind of the alarm."""
    state, alarm = watch_errors(rule, DriftState(), errors, np.full(len(errors), predicted), level=predicted)
    return (state, None, "") if alarm is None else (state, alarm.row, alarm.change)


def test_one_error_multiplies_by_its_likelihood_ratio() -> None:
    """Level .4, jump .2: right answers .6 become .4, so wrong ones .4 become .6: R = (1 + 0) * .6 / .4.

    For the better wrong ones halve, to .2: R = .2 / .4.
    """
    state, _, _ = feed(DriftRule(), np.array([1.0]))

    assert state.worse == pytest.approx(1.5)
    assert state.better == pytest.approx(0.5)


def test_two_rows_chain() -> None:
    """A wrong answer, then a right one: worse (1 + 1.5) * .4 / .6 = 5/3; better (1 + .5) * .8 / .6 = 2."""
    state, _, _ = feed(DriftRule(), np.array([1.0, 0.0]))

    assert state.worse == pytest.approx(5 / 3)
    assert state.better == pytest.approx(2.0)
    assert state.feedbacks == 2


def test_predictions_from_few_labels_say_less() -> None:
    """120 labels halve the log ratio: R = sqrt(1.5); none leave R = 1 + R."""
    for evidence, expected in ((120.0, 1.5**0.5), (0.0, 1.0)):
        state, _ = watch_errors(DriftRule(), DriftState(), [1.0], [0.4], level=0.4, evidence=evidence)

        assert state.worse == pytest.approx(expected)


def test_nothing_but_errors_is_an_alarm_within_twenty() -> None:
    """At .405 each, a threshold near 8.3 is crossed in about 18 rows; the kind is told."""
    _, row, change = feed(DriftRule(), np.ones(40))

    assert row is not None
    assert 14 <= row <= 21
    assert change == "worse"


def test_blocks_make_no_difference() -> None:
    """The state carries over: rows given one by one end where rows given at once end."""
    rng = np.random.default_rng(0)
    errors, predicted = (rng.random(60) < 0.4).astype(float), rng.uniform(0.2, 0.6, 60)
    whole, none = watch_errors(DriftRule(), DriftState(), errors, predicted, level=0.4)
    state = DriftState()
    for row in range(60):
        state, _ = watch_errors(DriftRule(), state, errors[[row]], predicted[[row]], level=0.4)

    assert none is None
    assert state.worse == pytest.approx(whole.worse)
    assert state.better == pytest.approx(whole.better)
    assert state.feedbacks == 60


def test_false_alarms_come_as_seldom_as_asked() -> None:
    """Asked for one in 500 on predictions that are right: between 300 and 1,200 feedbacks each."""
    rng, rule = (
        np.random.default_rng(0),
        DriftRule(
            feedbacks_per_false_worse=500, feedbacks_per_false_better=1e9, feedbacks_per_false_return=1e9
        ),
    )
    lengths = []
    for _ in range(60):
        _, row, _ = feed(rule, (rng.random(8_000) < 0.4).astype(float))
        lengths.append(8_000 if row is None else row + 1)

    assert 300 <= np.mean(lengths) <= 1_200


def test_a_jump_is_noticed_soon() -> None:
    """From .4 to .6 with right predictions: within 150 feedbacks in at least 95 of 100 runs."""
    rng = np.random.default_rng(1)
    rows = [feed(DriftRule(), (rng.random(150) < 0.6).astype(float))[1] for _ in range(100)]

    assert sum(row is not None for row in rows) >= 95


def test_an_llm_gets_worse_returns_and_settles() -> None:
    """Steady, worse, returning, steady; probes are wanted in between."""
    rule, watch, seen = DriftRule(settling=10), Watch(), []
    for errors in (np.ones(40), np.zeros(40), np.tile([0.0, 1.0], 5)):
        watch, _ = follow_llm(rule, watch, errors, np.full(len(errors), 0.5), level=0.5)
        seen.append((watch.standing, watch.wants_probes))

    assert seen == [("worse", True), ("returning", True), ("steady", False)]


def test_a_worse_llm_is_let_back_on_less_evidence() -> None:
    """The same right answers that leave a steady LLM be bring one that got worse back."""
    errors, predicted = np.zeros(20), np.full(20, 0.5)
    _, steady = follow_llm(DriftRule(), Watch(), errors, predicted, level=0.5)
    _, worse = follow_llm(DriftRule(), Watch(standing="worse"), errors, predicted, level=0.5)

    assert steady is None
    assert worse is not None
    assert worse.change == "better"


def test_no_feedback_changes_nothing() -> None:
    """An empty batch."""
    state = DriftState(worse=1.0)

    assert watch_errors(DriftRule(), state, [], [], level=0.5) == (state, None)


@pytest.mark.parametrize("wrong", [{"jump": 0.0}, {"jump": 1.0}, {"feedbacks_per_false_worse": 0.5}])
def test_a_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """Jumps are in (0, 1), alarms at most one a feedback."""
    with pytest.raises(InvalidInputError):
        DriftRule(**wrong)
