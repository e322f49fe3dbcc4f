"""Counting: letters of a phrase, words of a sentence, items of a list."""

import random

from workers.local.simulated.families.question import INVOLVED, Question, slip_number
from workers.local.simulated.families.vocabulary import FRUIT, WORDS


def _letters(rng: random.Random, difficulty: int) -> tuple[str, int]:
    """How often a letter occurs."""
    text = " ".join(rng.sample(WORDS, 1 + difficulty))
    letter = rng.choice("aeinorst")
    ask = rng.choice(
        (
            f"How many times does the letter '{letter}' appear in: {text}?",
            f"Count the occurrences of '{letter}' in the phrase \"{text}\".",
            f'How many {letter}\'s are there in "{text}"?',
        )
    )
    return ask, text.count(letter)


def _words(rng: random.Random, difficulty: int) -> tuple[str, int]:
    """How many words there are, or how many that are long."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(4, 5 * difficulty + 4))]
    text = " ".join(words)
    if difficulty >= INVOLVED:
        length = rng.randint(7, 8)
        ask = f"How many words of at least {length} letters does this line contain: {text}?"
        return ask, sum(len(word) >= length for word in words)
    ask = rng.choice((f"Count the words in this line: {text}.", f'How many words are there in "{text}"?'))
    return ask, len(words)


def _items(rng: random.Random, difficulty: int) -> tuple[str, int]:
    """How often one thing stands in a list."""
    kinds = rng.sample(FRUIT, 2 + difficulty // 2)
    basket = [rng.choice(kinds) for _ in range(rng.randint(5, 6 * difficulty + 5))]
    wanted = rng.choice(kinds)
    ask = rng.choice(
        (
            f"How often is the word '{wanted}' on this list? {', '.join(basket)}",
            f"Count how many entries equal '{wanted}': {', '.join(basket)}.",
            f"The tally sheet reads {', '.join(basket)}. How many times was '{wanted}' ticked?",
        )
    )
    return ask, basket.count(wanted)


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw something to count; wrong answers miss one or two, or count them twice."""
    ask, count = rng.choice((_letters, _words, _items))(rng, difficulty)
    ending = rng.choice(("", " Answer with a number.", " Just the count, please."))
    wrong = (str(count + 1), str(max(0, count - 1)), str(count + 2), *slip_number(rng, count)[:1])
    return Question(prompt=ask + ending, answer=str(count), checker="numeric", wrong=wrong)
