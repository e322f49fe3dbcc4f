"""Code output: what a short Python program prints."""

import random

from workers.local.simulated.families.question import INVOLVED, Question, number_text, slip_number

_ASK = (
    "What does this Python program print?\n\n```python\n{}\n```",
    "Read the code and say what it outputs, nothing else.\n\n```python\n{}\n```",
    "Predict the output of the following snippet:\n\n```python\n{}\n```",
    "I ran this script in Python 3:\n\n```python\n{}\n```\n\nWhich number did it print?",
)


def _loop(rng: random.Random, difficulty: int) -> tuple[str, int, int]:
    """A loop with a condition; the slip runs it once more."""
    stop, step, modulus = rng.randint(4, 6 * difficulty), rng.randint(1, 3), rng.randint(2, 4)
    name = rng.choice(("total", "acc", "result", "count"))
    code = (
        f"{name} = 0\nfor i in range(1, {stop}, {step}):\n"
        f"    if i % {modulus} == 0:\n        {name} += i * 2\n"
        f"    else:\n        {name} += 1\nprint({name})"
    )
    values = [i * 2 if i % modulus == 0 else 1 for i in range(1, stop, step)]
    return code, sum(values), sum(values) + (stop * 2 if stop % modulus == 0 else 1)


def _halving(rng: random.Random, difficulty: int) -> tuple[str, int, int]:
    """Floor division in a while loop; the slip counts one step too few."""
    start, divisor = rng.randint(10, 40 * difficulty**2), rng.randint(2, 3)
    code = f"n = {start}\nsteps = 0\nwhile n > 1:\n    n = n // {divisor}\n    steps += n\nprint(steps)"
    n, steps = start, 0
    while n > 1:
        n //= divisor
        steps += n
    return code, steps, steps + start


def _slicing(rng: random.Random, difficulty: int) -> tuple[str, int, int]:
    """A sum over a slice; the slip includes the end of the slice."""
    items = [rng.randint(1, 10 * difficulty) for _ in range(4 + difficulty)]
    low = rng.randint(0, 2)
    high = rng.randint(low + 1, len(items) - 1)
    name = rng.choice(("data", "values", "xs"))
    tail = f"len({name})" if difficulty >= INVOLVED else "1"
    code = f"{name} = {items}\npart = {name}[{low}:{high}]\nprint(sum(part) * {tail})"
    scale = len(items) if difficulty >= INVOLVED else 1
    return code, sum(items[low:high]) * scale, sum(items[low : high + 1]) * scale


def _recursion(rng: random.Random, difficulty: int) -> tuple[str, int, int]:
    """A recursive function; the slip stops one call too early."""
    first, second, depth = rng.randint(0, 4), rng.randint(1, 5), rng.randint(3, 4 + difficulty)
    code = (
        f"def f(n):\n    if n < 2:\n        return {first} if n == 0 else {second}\n"
        f"    return f(n - 1) + f(n - 2)\n\nprint(f({depth}))"
    )
    values = [first, second]
    while len(values) <= depth:
        values.append(values[-1] + values[-2])
    return code, values[depth], values[depth - 1]


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a program that prints a whole number; wrong answers run a loop once too often or too rarely."""
    code, value, slip = rng.choice((_loop, _halving, _slicing, _recursion))(rng, difficulty)
    wrong = (number_text(slip), *slip_number(rng, value))
    return Question(
        prompt=rng.choice(_ASK).format(code), answer=number_text(value), checker="numeric", wrong=wrong
    )
