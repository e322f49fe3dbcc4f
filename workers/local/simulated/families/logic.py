"""Logic: orderings from clues, and syllogisms, with choices to pick from."""

import random
from itertools import pairwise

from workers.local.simulated.families.question import Question, chance
from workers.local.simulated.families.vocabulary import PEOPLE

_RELATIONS = (
    ("taller than", "shorter than", "tallest", "shortest"),
    ("older than", "younger than", "oldest", "youngest"),
    ("faster than", "slower than", "fastest", "slowest"),
    ("richer than", "poorer than", "richest", "poorest"),
)
_NOUNS = ("blickets", "wugs", "daxes", "toves", "borogoves", "zorps", "feps", "glims", "mips", "quibs")


def _ordering(rng: random.Random, difficulty: int) -> tuple[str, str, list[str]]:
    """A chain of comparisons, told in any order and either way round."""
    people = rng.sample(PEOPLE, 3 + difficulty)
    more, less, most, least = rng.choice(_RELATIONS)
    clues = [
        f"{a} is {more} {b}." if chance(rng, 0.6) else f"{b} is {less} {a}." for a, b in pairwise(people)
    ]
    rng.shuffle(clues)
    asked = rng.choice((most, least))
    right = people[0] if asked == most else people[-1]
    ask = rng.choice(
        (
            f"Who is the {asked}?",
            f"From these clues, who must be the {asked}?",
            f"Which of them is the {asked}?",
        )
    )
    opening = rng.choice(("", "Solve this riddle. ", f"{len(people)} friends compare themselves. "))
    return f"{opening}{' '.join(clues)} {ask}", right, [p for p in people if p != right]


def _syllogism(rng: random.Random, difficulty: int) -> tuple[str, str, list[str]]:
    """A chain of inclusions that holds, breaks, or says no."""
    nouns = rng.sample(_NOUNS, 2 + min(difficulty, 4))
    premises = [f"All {a} are {b}." for a, b in pairwise(nouns)]
    kind = rng.choice(("follows", "contradicted", "open"))
    first, last = nouns[0], nouns[-1]
    if kind == "contradicted":
        premises[-1] = f"No {nouns[-2]} are {last}."
    elif kind == "open":
        first, last = last, first
    rng.shuffle(premises)
    ask = rng.choice(
        (
            f"Every kind has members. Is it true that all {first} are {last}?",
            f"Assume that each kind has at least one member. Judge: 'All {first} are {last}'.",
        )
    )
    verdicts = {
        "follows": "It must be true",
        "contradicted": "It must be false",
        "open": "It cannot be decided",
    }
    right = verdicts.pop(kind)
    return (
        f"{' '.join(premises)} {ask}",
        right,
        [*verdicts.values(), "The premises contradict each other"],
    )


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a riddle with four choices; a wrong answer is another letter."""
    text, right, others = rng.choice((_ordering, _ordering, _syllogism))(rng, difficulty)
    options = [right, *rng.sample(others, 3)]
    rng.shuffle(options)
    letters = "ABCD"
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    ending = rng.choice(("Answer with the letter.", "Reply with one letter.", "Which option is right?"))
    answer = letters[options.index(right)]
    return Question(
        prompt=f"{text}\n{listed}\n{ending}",
        answer=answer,
        checker="choice",
        wrong=tuple(letter for letter in letters if letter != answer),
    )
