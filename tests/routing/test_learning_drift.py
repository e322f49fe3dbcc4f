import numpy as np
import pytest

from routing.errors import InvalidInputError
from routing.learning import DriftRule, DriftState, Seen, Watch, follow_llm, watch_errors


def feed(
    rule: DriftRule, errors: np.ndarray, *, predicted: float = 0.4
) -> tuple[DriftState, int | None, str]:
    """Watch from the start; give the state, and row and kind of the alarm."""
    state, alarm = watch_errors(rule, DriftState(), errors, np.full(len(errors), predicted), level=predicted)
    return (state, None, "") if alarm is None else (state, alarm.row, alarm.change)


def test_feedback_is_held_against_its_predictions_in_standard_deviations() -> None:
    """Four rows, level .5: one log odds weighs all alike, so z = sum (e - q) / sqrt(4 * .25) = 2 and -2.

    One row of four: the three to come count as predicted, z = .5 / sqrt(4 * .25).
    """
    rule = DriftRule(within=4)
    state, _, _ = feed(rule, np.array([1.0]), predicted=0.5)

    assert state.worse == pytest.approx(0.5)
    assert state.better == pytest.approx(-0.5)

    state, _, _ = feed(rule, np.ones(4), predicted=0.5)

    assert state.worse == pytest.approx(2.0)
    assert state.better == pytest.approx(-2.0)


def test_what_is_older_than_the_window_counts_no_more() -> None:
    """Two wrong answers, then four right ones: the state of those four alone but for the feedbacks seen."""
    rule = DriftRule(within=4)
    state, _, _ = feed(rule, np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), predicted=0.5)

    assert state.worse == pytest.approx(-2.0)
    assert state.recent == (Seen(0.0, 0.5),) * 4
    assert state.feedbacks == 6


def test_the_surest_predictions_tell_most() -> None:
    """An error where .2 was predicted is more of a sign than one where .6 was."""
    states = [
        watch_errors(DriftRule(), DriftState(), [1.0, 1.0, 0.0], [sure, 0.4, 0.4], level=0.4)[0]
        for sure in (0.2, 0.6)
    ]

    assert states[0].worse > states[1].worse


def test_predictions_from_few_labels_say_less() -> None:
    """A window of 4, N labels: variances are 1 + 3 / (N + 3) times those of a known rate."""
    for evidence, expected in ((np.inf, 0.5), (0.0, 0.5 / 2**0.5), (6.0, 0.5 / (4 / 3) ** 0.5)):
        state, _ = watch_errors(DriftRule(within=4), DriftState(), [1.0], [0.5], level=0.5, evidence=evidence)

        assert state.worse == pytest.approx(expected)


def test_nothing_but_errors_is_an_alarm_within_thirty() -> None:
    """Six of ten are surprises: z >= 2.89 at 2.89 sqrt(150 * .24) / .6 = 29 rows; the kind is told.

    Nearer to a change is 15 in 150 above what was predicted, 25 rows.
    """
    _, row, change = feed(DriftRule(), np.ones(40))

    assert row is not None
    assert row + 1 == 29
    assert change == "worse"


def test_an_llm_that_hardly_errs_is_not_accused_for_a_few_errors() -> None:
    """Predicted .02: eight errors are far from chance, and farther from the 33 of an LLM that got worse."""
    errors = np.zeros(150)
    errors[::19] = 1.0
    state, row, _ = feed(DriftRule(), errors, predicted=0.02)

    assert state.worse > 2.9
    assert row is None


def test_blocks_make_no_difference() -> None:
    """The state carries over: rows given one by one end where rows given at once end."""
    rng = np.random.default_rng(0)
    errors, predicted = (rng.random(60) < 0.4).astype(float), rng.uniform(0.2, 0.6, 60)
    rule = DriftRule(within=40)
    whole, none = watch_errors(rule, DriftState(), errors, predicted, level=0.4)
    state = DriftState()
    for row in range(60):
        state, _ = watch_errors(rule, state, errors[[row]], predicted[[row]], level=0.4)

    assert none is None
    assert state.worse == pytest.approx(whole.worse)
    assert state.better == pytest.approx(whole.better)
    assert state.recent == whole.recent
    assert state.feedbacks == 60


def test_false_alarms_come_as_seldom_as_asked() -> None:
    """Asked for one in 2,000 on predictions that are right: within a third of it in 100 runs."""
    rng = np.random.default_rng(0)
    rule = DriftRule(jump=0.1, feedbacks_per_false_worse=2_000, feedbacks_per_false_better=1e9)
    lengths = []
    for _ in range(100):
        _, row, _ = feed(rule, (rng.random(10_000) < 0.4).astype(float))
        lengths.append(10_000 if row is None else row + 1)

    assert 1_500 <= np.mean(lengths) <= 2_700


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
    errors, predicted = np.zeros(24), np.full(24, 0.5)
    _, steady = follow_llm(DriftRule(), Watch(), errors, predicted, level=0.5)
    _, worse = follow_llm(DriftRule(), Watch(standing="worse"), errors, predicted, level=0.5)

    assert steady is None
    assert worse is not None
    assert worse.change == "better"


def test_no_feedback_changes_nothing() -> None:
    """An empty batch."""
    state = DriftState(worse=1.0)

    assert watch_errors(DriftRule(), state, [], [], level=0.5) == (state, None)


@pytest.mark.parametrize(
    "wrong", [{"jump": 0.0}, {"jump": 1.0}, {"within": 0}, {"feedbacks_per_false_worse": 0.5}]
)
def test_a_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """Jumps are in (0, 1), alarms at most one a feedback."""
    with pytest.raises(InvalidInputError):
        DriftRule(**wrong)
