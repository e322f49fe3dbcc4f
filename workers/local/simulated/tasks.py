"""Draw tasks: any number of prompts from a seed, each one found again from its id alone."""

import random
import re
from dataclasses import dataclass

from workers.graders import Checker, grade
from workers.local.simulated.families import FAMILIES
from workers.local.simulated.families.question import INVOLVED, chance
from workers.local.simulated.families.vocabulary import BACKGROUND

#: From easy to hard.
DIFFICULTIES = (1, 2, 3, 4, 5)
_ID = re.compile(r"builtin-(\d{1,12})-(\d{1,12})")
#: Share of the involved prompts that open with a sentence beside the point, as people write them.
_CHATTY = 0.25
_NAMES = tuple(sorted(FAMILIES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt with its answer and the way to check a reply."""

    prompt_id: str
    family: str
    #: 1 (easy) to 5 (hard).
    difficulty: int
    prompt: str
    #: A right answer, as a terse LLM would write it.
    answer: str
    checker: Checker
    #: What a right answer matches in full, for the checker ``regex``; else empty.
    pattern: str
    #: Plausible answers that the checker refuses; at least one.
    wrong: tuple[str, ...]


def task_id(seed: int, index: int) -> str:
    """Name the task at a place of a seed's endless sequence."""
    return f"builtin-{seed}-{index}"


def draw_task(seed: int, index: int) -> Task:
    """Draw the task at ``index`` of the sequence of ``seed``: the same one in every process, every time.

    Families and difficulties are drawn evenly. Wrong answers that the checker would accept are dropped.
    """
    rng = random.Random(f"task/{seed}/{index}")
    family, difficulty = rng.choice(_NAMES), rng.choice(DIFFICULTIES)
    while True:
        question = FAMILIES[family](rng, difficulty)
        wrong = tuple(w for w in dict.fromkeys(question.wrong) if w and grade(question, w) == 0.0)
        if wrong:
            break
    prompt = question.prompt
    if difficulty >= INVOLVED and chance(rng, _CHATTY):
        prompt = f"{rng.choice(BACKGROUND)} {prompt}"
    return Task(
        prompt_id=task_id(seed, index),
        family=family,
        difficulty=difficulty,
        prompt=prompt,
        answer=question.answer,
        checker=question.checker,
        pattern=question.pattern,
        wrong=wrong,
    )


def find_task(prompt_id: str, *, seed: int) -> Task | None:
    """Draw the task of an id; ``None`` for an id that is not of this seed's sequence."""
    match = _ID.fullmatch(prompt_id)
    if match is None or int(match.group(1)) != seed:
        return None
    return draw_task(seed, int(match.group(2)))
