"""Number sequences: what comes next, out of four choices."""

import random

from workers.local.simulated.families.question import Question

_ASK = (
    "What number comes next in the sequence {}, ...?",
    "Continue the pattern: {}, ?",
    "Find the rule behind {} and name the following term.",
    "Which term should follow in this number series: {}?",
)


def _terms(rng: random.Random, difficulty: int, length: int) -> list[int]:
    """Terms of a rule that grows harder: steady, growing, doubled, alternating, summed."""
    start, step = rng.randint(1, 12), rng.randint(2, 9)
    summed = [start, start + step]
    while len(summed) < length:
        summed.append(summed[-1] + summed[-2])
    rules = (
        [start + step * i for i in range(length)],
        [start + step * i * (i + 1) // 2 for i in range(length)],
        [start * 2**i + step for i in range(length)],
        [start + step * i if i % 2 == 0 else start * 2 - i for i in range(length)],
        summed,
    )
    return rules[difficulty - 1]


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a sequence and four choices; wrong answers repeat the last step or miss by a little."""
    terms = _terms(rng, difficulty, rng.randint(6, 7))
    shown, value = terms[:-1], terms[-1]
    repeated = 2 * shown[-1] - shown[-2]
    near = [v for v in (repeated, value + 1, value - 2, value + 4, value + 7) if v != value]
    options = [value, *list(dict.fromkeys(near))[:3]]
    rng.shuffle(options)
    letters = "ABCD"
    answer = letters[options.index(value)]
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(letters, options, strict=True))
    ending = rng.choice(
        ("Choose one letter.", "Pick A, B, C or D.", "Answer with the letter of your choice.")
    )
    question = rng.choice(_ASK).format(", ".join(map(str, shown)))
    wrong = tuple(letter for letter in letters if letter != answer)
    return Question(prompt=f"{question} {listed} {ending}", answer=answer, checker="choice", wrong=wrong)
