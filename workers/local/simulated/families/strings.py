"""String surgery: words reversed, vowels dropped, letters moved or replaced."""

import random
from collections.abc import Callable

from workers.local.simulated.families.question import Question
from workers.local.simulated.families.vocabulary import WORDS

_VOWELS = "aeiou"


def _reverse(rng: random.Random, text: str) -> tuple[str, str]:
    ask = rng.choice(
        (
            "Spell the string '{}' backwards.",
            "Reverse the characters of '{}'.",
            "Write '{}' from its last letter to its first.",
        )
    )
    return ask.format(text), text[::-1]


def _drop_vowels(rng: random.Random, text: str) -> tuple[str, str]:
    ask = rng.choice(
        (
            "Remove every vowel (a, e, i, o, u) from the string '{}'.",
            "Delete the vowels a, e, i, o and u from '{}' and keep the other letters.",
        )
    )
    return ask.format(text), "".join(c for c in text if c not in _VOWELS)


def _every_second(rng: random.Random, text: str) -> tuple[str, str]:
    ask = rng.choice(
        (
            "Keep only the 1st, 3rd, 5th ... character of the string '{}'.",
            "Take every second letter of '{}', beginning with the first.",
        )
    )
    return ask.format(text), text[::2]


def _replace(rng: random.Random, text: str) -> tuple[str, str]:
    old = rng.choice(sorted({c for c in text if c != " "}))
    new = rng.choice([c for c in "abcdefghijklmnopqrstuvwxyz" if c != old])
    ask = rng.choice(
        (
            f"Replace each letter '{old}' by '{new}' in the string '{text}'.",
            f"In '{text}', change all occurrences of the character '{old}' to '{new}'.",
        )
    )
    return ask, text.replace(old, new)


def _rotate(rng: random.Random, text: str) -> tuple[str, str]:
    shift = rng.randint(1, min(4, len(text) - 1))
    ask = rng.choice(
        (
            f"Move the first {shift} characters of the string '{text}' to its end.",
            f"Rotate the letters of '{text}' to the left by {shift}.",
        )
    )
    return ask, text[shift:] + text[:shift]


_SURGERY: tuple[Callable[[random.Random, str], tuple[str, str]], ...] = (
    _reverse,
    _drop_vowels,
    _every_second,
    _replace,
    _rotate,
)


def _slips(rng: random.Random, text: str, answer: str) -> tuple[str, ...]:
    """The text untouched, a letter lost, a letter doubled, two neighbours swapped."""
    at = rng.randrange(len(answer))
    swap = rng.randrange(max(1, len(answer) - 1))
    return (
        answer[:at] + answer[at + 1 :],
        answer[: at + 1] + answer[at:],
        answer[:swap] + answer[swap : swap + 2][::-1] + answer[swap + 2 :],
        answer[::-1],
        text,
    )


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw an operation on as many words as the difficulty says; wrong answers lose or swap a letter."""
    text = "".join(rng.sample(WORDS, max(1, (difficulty + 1) // 2)))
    ask, answer = rng.choice(_SURGERY)(rng, text)
    ending = rng.choice(
        ("Reply with the resulting string only.", "Give only the new string.", "What string do you get?", "")
    )
    return Question(
        prompt=f"{ask} {ending}".strip(), answer=answer, checker="exact", wrong=_slips(rng, text, answer)
    )
