"""What another policy would have been worth is told from logged decisions and their feedback, or refused."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from logged_traffic import Office

from routing.learning import SourceTrust
from workers.errors import UsageError
from workers.messages import DecisionRecord
from workers.replay import apply_policies, value_policies
from workers.storage.engine import transaction
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.sources import Sources

pytestmark = pytest.mark.stack

EVEN = {"kind": "weighted", "weights": {"large": 1.0, "small": 1.0}}
LARGE = {"kind": "fixed", "llm": "large"}


def grade(
    office: Office,
    records: Sequence[DecisionRecord],
    score: Callable[[DecisionRecord], float],
    *,
    source: str = "human",
) -> None:
    """Give feedback on every decision."""
    with transaction(office.engine) as session:
        Feedback(session).record(
            [
                FeedbackEntry(
                    feedback_id=f"{source}-{record.prompt_id}",
                    source=source,
                    decision_id=record.decision_id,
                    prompt_id=record.prompt_id,
                    llm=record.llm,
                    map_version=record.versions.map,
                    cells=record.cells,
                    score=score(record),
                    event_time=datetime(2027, 1, 31, tzinfo=UTC),
                )
                for record in records
            ]
        )


def test_a_log_with_chances_values_another_policy(office: Office) -> None:
    """Each prompt went to either LLM by lot, ``large`` right and ``small`` wrong: ``large`` alone is worth 1.

    Weights are 2 where ``large`` was chosen and 0 elsewhere, so as many decisions count as went to it, and
    SNIPS is exactly 1. A call of ``large`` costs .00258 USD.
    """
    apply_policies(office.engine, {"default": EVEN})
    records = office.traffic(50)
    grade(office, records, lambda record: float(record.llm == "large"))

    found = value_policies(office.engine, records, bodies={"large": LARGE})

    went = sum(record.llm == "large" for record in records)
    value = found.policies["large"].value
    assert value is not None
    assert 60 < went < 140
    assert (found.decisions, found.used, found.without_feedback) == (200, 200, 0)
    assert found.logged.value == pytest.approx(went / 200)
    assert value.effective_size == pytest.approx(went)
    assert value.snips.value == pytest.approx(1.0)
    assert value.ips.value == pytest.approx(2 * went / 200)
    # Predicted .9 each, corrected by 2 * (1 - .9) where it went there.
    assert value.dr.value == pytest.approx(0.9 + 2 * 0.1 * went / 200)
    assert found.policies["large"].usd == pytest.approx(0.00258)


def test_a_log_without_chances_is_refused(office: Office) -> None:
    """The rule sent cells 0 and 1 to ``small``: of ``large`` alone, half of the decisions say nothing."""
    records = office.traffic(5)
    grade(office, records, lambda _: 1.0)

    found = value_policies(office.engine, records, bodies={"large": LARGE}).policies["large"]

    assert found.value is None
    assert set(found.lacking) == {record.prompt_id for record in records if record.llm == "small"}
    assert "10 of 20 logged decisions could not have chosen" in found.refusal
    assert found.as_json()["refused"] == found.refusal


def test_decisions_without_feedback_are_left_out_and_counted(office: Office) -> None:
    """Half of the decisions were graded; with none, or for a budget, there is nothing to tell."""
    apply_policies(office.engine, {"default": EVEN})
    records = office.traffic(10)

    with pytest.raises(UsageError, match="of 40 decisions, 0 have feedback"):
        value_policies(office.engine, records, bodies={"large": LARGE})

    grade(office, records[::2], lambda _: 0.5)
    found = value_policies(office.engine, records, bodies={"even": EVEN})
    value = found.policies["even"].value
    assert (found.used, found.without_feedback, found.not_repeatable) == (20, 20, 0)
    assert value is not None
    assert (value.snips.value, value.effective_size) == (pytest.approx(0.5), pytest.approx(20))
    with pytest.raises(UsageError, match="spends a budget"):
        value_policies(office.engine, records, bodies={"b": {"kind": "budget", "usd": 1.0}})


def test_a_source_weighs_in_a_decisions_score_as_it_does_in_learning(office: Office) -> None:
    """A judge half believed weighs a quarter of a human: 1 and 0 are .8; a flagged source says nothing.

    So the quarter of the decisions that it alone scored are without feedback.
    """
    apply_policies(office.engine, {"default": EVEN})
    records = office.traffic(10)
    grade(office, records[:30], lambda _: 1.0)
    grade(office, records[:30], lambda _: 0.0, source="judge")
    grade(office, records, lambda _: 0.0, source="human:liar")
    trust = {"judge": 0.5, "human:liar": 0.0}
    with transaction(office.engine) as session:
        Sources(session).meet(trust)
        Sources(session).judge(
            {
                name: SourceTrust(trust=one, bias=0.2, least_bias=0.1, compared=9.0)
                for name, one in trust.items()
            }
        )

    found = value_policies(office.engine, records, bodies={"even": EVEN})

    assert (found.used, found.without_feedback) == (30, 10)
    assert found.logged.value == pytest.approx(1.0 / 1.25)


def test_a_policy_that_names_nobody_of_then_is_refused(office: Office) -> None:
    """It would have chosen no LLM that the log knows: every decision lacks support."""
    records = office.traffic(2)
    grade(office, records, lambda _: 1.0)

    found = value_policies(office.engine, records, bodies={"n": {"kind": "fixed", "llm": "new"}})

    assert len(found.policies["n"].lacking) == 8
