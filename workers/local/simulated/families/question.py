"""What a family draws: a prompt, its right answer, how to check a reply, and its own way of being wrong."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from workers.graders import Checker


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and all that grading it needs."""

    prompt: str
    #: A right answer, as a terse LLM would write it.
    answer: str
    checker: Checker
    #: What a right answer must match in full; for the checker ``regex`` only.
    pattern: str = ""
    #: Plausible slips. A few may be right by accident: ``tasks.draw_task`` drops those.
    wrong: tuple[str, ...]


#: Draws a question of one family at a difficulty of 1..5 from a seeded generator.
Draw = Callable[[random.Random, int], Question]

#: From this difficulty on, a family adds its complications.
INVOLVED = 3


def chance(rng: random.Random, probability: float) -> bool:
    """Flip a coin that shows heads with the given probability."""
    return rng.random() < probability


def number_text(value: float, decimals: int = 0) -> str:
    """Write a number as an answer: without exponent, with so many decimals."""
    return f"{value:.{decimals}f}"


def slip_number(rng: random.Random, value: float, decimals: int = 0) -> tuple[str, ...]:
    """Give near misses of a number: a carry dropped, a place slipped, two digits swapped."""
    step = 10.0**-decimals
    digits = number_text(abs(value), decimals)
    swapped = digits
    places = [i for i in range(len(digits) - 1) if (digits[i] + digits[i + 1]).isdigit()]
    if places:
        at = rng.choice(places)
        swapped = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
    nearby = (
        value + step,
        value - step,
        value + 10 * step,
        value - 10 * step,
        value * 10,
        value + 100 * step,
    )
    return (*(number_text(v, decimals) for v in nearby), ("-" if value < 0 else "") + swapped)
