"""Sorting: names, words by length, prices, either way round."""

import random

from workers.local.simulated.families.question import Question, chance
from workers.local.simulated.families.vocabulary import CITIES, PEOPLE, WORDS


def _numbers(rng: random.Random, size: int) -> tuple[str, list[str], list[str]]:
    """Numbers by value; whoever sorts them as text gets another order."""
    items = [str(n) for n in rng.sample(range(1, 10 ** rng.randint(2, 4)), size)]
    down = chance(rng, 0.5)
    ask = rng.choice(
        (
            f"Sort these numbers from {'largest to smallest' if down else 'smallest to largest'}:",
            f"Put the following values in {'descending' if down else 'ascending'} order:",
            f"Rank the prices below, {'dearest' if down else 'cheapest'} first:",
        )
    )
    return ask, items, sorted(items, key=int, reverse=down)


def _names(rng: random.Random, size: int) -> tuple[str, list[str], list[str]]:
    """Names by the alphabet."""
    source, what = rng.choice(((PEOPLE, "guests"), (CITIES, "cities"), (WORDS, "words")))
    items = rng.sample(source, size)
    down = chance(rng, 0.4)
    ask = rng.choice(
        (
            f"Sort the {what} in {'reverse alphabetical' if down else 'alphabetical'} order:",
            f"Arrange this list of {what} {'from Z to A' if down else 'from A to Z'}:",
            f"Alphabetise these {what}{', last one first' if down else ''}:",
        )
    )
    return ask, items, sorted(items, reverse=down)


def _lengths(rng: random.Random, size: int) -> tuple[str, list[str], list[str]]:
    """Words by length, those of equal length by the alphabet."""
    items = rng.sample(WORDS, size)
    ask = rng.choice(
        (
            "Order the words by length, shortest first, and equally long ones alphabetically:",
            "Sort by number of letters (ascending); break ties by the alphabet:",
        )
    )
    return ask, items, sorted(items, key=lambda word: (len(word), word))


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a list of 4 to 14 items; wrong answers swap two of them, run the other way or lose one."""
    size = 3 + 2 * difficulty - rng.randint(0, 1)
    ask, items, right = rng.choice((_numbers, _names, _lengths))(rng, size)
    at = rng.randrange(size - 1)
    swapped = [*right[:at], right[at + 1], right[at], *right[at + 2 :]]
    slips = (swapped, right[::-1], right[:at] + right[at + 1 :], sorted(items), items)
    joined = ", ".join(items) if chance(rng, 0.6) else "\n" + "\n".join(f"- {item}" for item in items) + "\n"
    ending = rng.choice(
        ("Separate them by commas.", "Return a comma-separated list.", "Answer on one line, with commas.")
    )
    prompt = f"{ask} {joined}. {ending}" if "\n" not in joined else f"{ask}{joined}{ending}"
    return Question(
        prompt=prompt,
        answer=", ".join(right),
        checker="listing",
        wrong=tuple(", ".join(slip) for slip in slips),
    )
