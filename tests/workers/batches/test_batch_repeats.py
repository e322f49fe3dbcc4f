"""What a batch counts of its replies: calls that were made again, and money."""

from decimal import Decimal

import msgspec
import pytest

from workers import messages
from workers.batches.collecting import with_cost
from workers.batches.tally import Tally, count_repeated
from workers.errors import PoisonError
from workers.messages import CallFact, Headers, LostCalls, Message


def make_reply(*headers: tuple[str, bytes]) -> Message:
    """A reply with these headers."""
    told: Headers = headers
    return Message(topic="r", partition=0, offset=0, timestamp_ms=0, key=b"k", value=b"{}", headers=told)


@pytest.mark.parametrize(
    ("before", "called", "again"),
    [
        (2, 1, 2),  # three calls: the second and the third
        (1, 0, 0),  # one call, and no money for another
        (2, 0, 1),
        (0, 3, 0),  # tries after errors are no repetitions
    ],
)
def test_calls_made_again_are_counted(before: int, called: int, again: int) -> None:
    """Of all calls for a line, those after the first one that a crash had the line begin anew."""
    headers = (
        (messages.REPEATED_CALLS, str(before).encode()),
        (messages.ATTEMPT, str(called).encode()),
    )

    assert count_repeated(make_reply(*headers)) == again


@pytest.mark.parametrize(
    ("lost", "called", "again"),
    [
        ([("a", 2)], ["a", "a"], 2),  # the second and the third first try, the latter with another after it
        ([("a", 2)], [], 1),
        ([("a", 1)], ["b"], 0),  # one each: the line was handed on, without a call at the first now
        ([("a", 1), ("b", 1)], ["a"], 1),  # two at the first, one at the second
        ([("a", 1), ("b", 2)], ["b"], 2),  # one at the first, three at the second
        ([("a", 1), ("a", 1)], [], 1),  # of two executors' telling
        ([("a", 1)], ["scorer"], 1),  # never too few
    ],
)
def test_calls_made_again_are_counted_by_llm(
    lost: list[tuple[str, int]], called: list[str], again: int
) -> None:
    """First tries at each LLM beyond its first, as a server that numbers them sees it."""
    calls = [CallFact(llm=llm, outcome="ok", seconds=1.0) for llm in called]
    facts = [LostCalls(llm=llm, count=count, usd=0.1) for llm, count in lost]
    headers = (
        (messages.REPEATED_CALLS, str(sum(count for _, count in lost)).encode()),
        (messages.LOST_CALLS, msgspec.json.encode(facts)),
        (messages.CALLS, msgspec.json.encode(calls)),
        (messages.ATTEMPT, str(len(calls)).encode()),
    )

    assert count_repeated(make_reply(*headers)) == again


def test_a_tally_of_lost_calls_that_cannot_be_read_is_refused() -> None:
    """No executor of ours wrote it; the line says so."""
    with pytest.raises(PoisonError, match="lost-calls"):
        count_repeated(make_reply((messages.LOST_CALLS, b"[[1]]")))


def make_tally() -> Tally:
    """One of nothing."""
    nothing = Decimal(0)
    return Tally(0, 0, 0, 0, nothing, nothing, nothing, nothing, nothing)


def test_what_nobody_told_counts_beside_what_was_told() -> None:
    """.3 told and .5 estimated of .6 reserved: .2 over, though the told part is below."""
    tally = make_tally()
    amounts = ((messages.COST_USD, b"0.3"), (messages.UNSETTLED_USD, b"0.5"), (messages.RESERVED_USD, b"0.6"))

    tally.add_money(make_reply(*amounts), again=False)
    tally.add_money(make_reply(*amounts), again=True)

    assert (tally.spent_usd, tally.unsettled_usd) == (Decimal("0.6"), Decimal("1.0"))
    assert (tally.settled_usd, tally.largest_overrun_usd) == (Decimal("0.6"), Decimal("0.2"))


def test_a_dead_letter_tells_what_its_calls_are_taken_to_have_cost() -> None:
    """By its calls; where it says more, because a crash had some of them repeated, by what it says."""
    calls = (
        CallFact(llm="a", outcome="ok", seconds=1.0, cost_usd=0.25),
        CallFact(llm="a", outcome="timeout", seconds=1.0, unsettled_usd=0.5),
    )
    raw = (messages.CALLS, msgspec.json.encode(calls))
    by_calls, told = make_tally(), make_tally()

    by_calls.add_money(with_cost(make_reply(raw)), again=False)
    told.add_money(with_cost(make_reply(raw, (messages.UNSETTLED_USD, b"1.5"))), again=False)

    assert (by_calls.spent_usd, by_calls.unsettled_usd) == (Decimal("0.25"), Decimal("0.5"))
    assert (told.spent_usd, told.unsettled_usd) == (Decimal("0.25"), Decimal("1.5"))


def test_what_is_reserved_for_lines_without_an_answer_is_taken_to_be_spent() -> None:
    """1 was reserved and .6 settled when the batch ended; told again after a crash, it says nothing new."""
    tally = make_tally()
    tally.add_money(make_reply((messages.RESERVED_USD, b"0.6"), (messages.COST_USD, b"0.2")), again=False)

    closed = [tally.close(Decimal(1)), tally.close(Decimal(1))]

    assert closed == [Decimal("0.4"), Decimal(0)]
    assert (tally.spent_usd, tally.unsettled_usd) == (Decimal("0.2"), Decimal("0.4"))
