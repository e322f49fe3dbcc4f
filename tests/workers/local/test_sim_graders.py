"""Checkers: tolerant of wrapping, strict about the answer."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.graders import grade
from workers.local.simulated.families.question import Checker


@dataclass(frozen=True)
class Item:
    """The least a grader asks for."""

    checker: Checker
    answer: str
    pattern: str = ""


NUMBER = Item("numeric", "42")
LARGE = Item("numeric", "-1234")
ROUNDED = Item("numeric", "53.62")
CHOICE = Item("choice", "B")
WORD = Item("exact", "Ghent")
CODE = Item("regex", "AB-123", r"[A-Z]{2}-[0-9]{3}")
OBJECT = Item("json", '{"count": 3, "city": "Ghent"}')
LIST = Item("listing", "fig, lime, pear")


@pytest.mark.parametrize(
    ("item", "reply"),
    [
        (NUMBER, "42"),
        (NUMBER, "The answer is 42."),
        (NUMBER, "6 * 7 = 42"),
        (NUMBER, "We add 30 and 12.\n\n**Answer:** 42 euros, not 41"),
        (NUMBER, r"so \boxed{42} it is, in 3 steps"),
        (NUMBER, "42.0"),
        (LARGE, "-1,234"),
        (LARGE, "The result is \u22121234."),
        (ROUNDED, "53.62"),
        (ROUNDED, "About 53.624 miles"),
        (CHOICE, "B"),
        (CHOICE, "(B) because A is too small"),
        (CHOICE, "I compare A and C first.\nThe answer is B."),
        (CHOICE, "**B.** 17"),
        (WORD, "ghent"),
        (WORD, 'The answer is "Ghent".'),
        (WORD, "I looked it up.\n\nGhent."),
        (CODE, "`XY-987`"),
        (CODE, "Answer: QQ-000"),
        (OBJECT, '{"city":"Ghent","count":3}'),
        (OBJECT, 'Here you are:\n```json\n{"count": 3.0, "city": "Ghent"}\n```\nAnything else?'),
        (OBJECT, 'The object is {"city": "Ghent", "count": 3}.'),
        (LIST, "fig,lime,  pear"),
        (LIST, "1. Fig\n2. Lime\n3. Pear"),
        (LIST, "Sorted.\nThe answer is fig, lime, pear."),
    ],
)
def test_right_answers_are_seen_through_their_wrapping(item: Item, reply: str) -> None:
    """What a person would count as right gets 1."""
    assert grade(item, reply) == 1.0


@pytest.mark.parametrize(
    ("item", "reply"),
    [
        (NUMBER, "The answer is 43, though 42 is close"),
        (NUMBER, "420"),
        (NUMBER, "42.4"),
        (NUMBER, "no idea"),
        (LARGE, "1234"),
        (ROUNDED, "53.61"),
        (ROUNDED, "53.626"),
        (CHOICE, "C"),
        (CHOICE, "Because"),
        (CHOICE, "The answer is A. B is wrong."),
        (WORD, "Ghent or Leeds"),
        (CODE, "ab-123"),
        (CODE, "AB-1234"),
        (OBJECT, '{"city": "Ghent", "count": "3"}'),
        (OBJECT, '{"city": "Ghent", "count": true}'),
        (OBJECT, '{"city": "Ghent", "count": 3, "more": 1}'),
        (OBJECT, "Ghent, 3"),
        (LIST, "lime, fig, pear"),
        (LIST, "fig, lime"),
        *((item, "") for item in (NUMBER, CHOICE, WORD, CODE, OBJECT, LIST)),
    ],
)
def test_wrong_answers_are_refused(item: Item, reply: str) -> None:
    """What a person would count as wrong gets 0."""
    assert grade(item, reply) == 0.0


def test_true_is_not_one_in_json() -> None:
    """Python holds them equal; a reader of JSON does not."""
    assert grade(Item("json", '{"count": 1}'), '{"count": true}') == 0.0


@given(st.text(), st.sampled_from((NUMBER, ROUNDED, CHOICE, WORD, CODE, OBJECT, LIST)))
def test_any_reply_gets_a_score(reply: str, item: Item) -> None:
    """No reply, however odd, raises."""
    assert grade(item, reply) in {0.0, 1.0}


@pytest.mark.parametrize("reply", ["9" * 5_000, "[" * 100_000, "1e999", '{"a":' * 50_000, "answer " * 10_000])
def test_hostile_replies_get_zero(reply: str) -> None:
    """Huge numbers and deep nesting are wrong, not fatal."""
    assert grade(NUMBER, reply) == grade(OBJECT, reply) == 0.0
