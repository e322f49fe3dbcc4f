"""Dates: days and weeks added, days between, weekdays."""

import random
from datetime import date, timedelta

from workers.local.simulated.families.question import INVOLVED, Question, chance, slip_number
from workers.local.simulated.families.vocabulary import PEOPLE

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EVENTS = ("contract", "rental", "exhibition", "trial period", "voyage", "warranty", "course", "visa", "loan")


def _day(rng: random.Random) -> date:
    return date(2021, 1, 1) + timedelta(days=rng.randrange(365 * 9))


def _spoken(rng: random.Random, day: date) -> str:
    """Write a date in one of the ways people write it, none of them ambiguous."""
    return rng.choice((day.isoformat(), f"{day.day} {day:%B %Y}", f"{day:%B} {day.day}, {day.year}"))


def _shifted(rng: random.Random, difficulty: int) -> Question:
    """The date so many days before or after another."""
    start, days = _day(rng), rng.randint(3, 12 * difficulty**2)
    weeks = rng.randint(1, 4) if difficulty >= INVOLVED else 0
    back = chance(rng, 0.35)
    end = start + timedelta(days=days, weeks=weeks) * (-1 if back else 1)
    span = f"{days} days" + (f" and {weeks} weeks" if weeks else "")
    asked, given = ("begin", "ended") if back else ("end", "begins")
    lasts = "had lasted" if back else "lasts"
    person, event, told = rng.choice(PEOPLE), rng.choice(_EVENTS), _spoken(rng, start)
    ask = rng.choice(
        (
            f"Which date is {span} {'before' if back else 'after'} {told}?",
            f"What is the calendar date {span} {'earlier than' if back else 'later than'} {told}?",
            f"{person}'s {event} {given} on {told} and {lasts} {span}. On which date did it {asked}?",
        )
    )
    slips = (end + timedelta(days=days) for days in (1, -1, 7, 30))
    wrong = tuple(day.isoformat() for day in slips)
    return Question(
        prompt=f"{ask} Write it as YYYY-MM-DD.", answer=end.isoformat(), checker="exact", wrong=wrong
    )


def _weekday(rng: random.Random, difficulty: int) -> Question:
    """The weekday of a date, given a date nearby and its weekday."""
    known, gap = _day(rng), rng.randint(4, 15 * difficulty)
    asked = known + timedelta(days=gap)
    name = _WEEKDAYS[asked.weekday()]
    told, weekday, later = _spoken(rng, known), _WEEKDAYS[known.weekday()], _spoken(rng, asked)
    ask = rng.choice(
        (
            f"If {told} is a {weekday}, what day of the week is {later}?",
            f"On which weekday does the date {later} fall? ({told} is a {weekday}.)",
            f"Today is {weekday}. Which weekday will it be in {gap} days?",
        )
    )
    wrong = tuple(_WEEKDAYS[(asked.weekday() + shift) % 7] for shift in (1, -1, 2, -2))
    return Question(prompt=f"{ask} Answer with its name.", answer=name, checker="exact", wrong=wrong)


def _between(rng: random.Random, difficulty: int) -> Question:
    """The days from one date to another, the first one not counted."""
    start, days = _day(rng), rng.randint(5, 40 * difficulty)
    end = start + timedelta(days=days)
    first, last, person = _spoken(rng, start), _spoken(rng, end), rng.choice(PEOPLE)
    ask = rng.choice(
        (
            f"How many days are there from {first} to {last}, not counting the first?",
            f"{person} signs a {rng.choice(_EVENTS)} on {first}; it ends on {last}. After how many days?",
            f"Count the days between the dates {first} and {last} (end minus start).",
        )
    )
    return Question(prompt=ask, answer=str(days), checker="numeric", wrong=slip_number(rng, days))


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a question on the calendar; wrong answers miss a day, a week or the length of a month."""
    return rng.choice((_shifted, _weekday, _between))(rng, difficulty)
