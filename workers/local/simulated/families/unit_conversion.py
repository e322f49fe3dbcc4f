"""Unit conversion: lengths, masses, volumes, temperatures, speeds and data sizes, to two decimals."""

import random

from workers.local.simulated.families.question import Question, chance, number_text, slip_number

#: Size of each unit in the unit that stands first in its group; exact by definition where one exists.
_UNITS: tuple[dict[str, float], ...] = (
    {
        "metres": 1.0,
        "kilometres": 1000.0,
        "feet": 0.3048,
        "inches": 0.0254,
        "yards": 0.9144,
        "miles": 1609.344,
    },
    {"kilograms": 1.0, "grams": 0.001, "pounds": 0.45359237, "ounces": 0.028349523125, "tonnes": 1000.0},
    {
        "litres": 1.0,
        "millilitres": 0.001,
        "US gallons": 3.785411784,
        "US pints": 0.473176473,
        "hectolitres": 100.0,
    },
    {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0, "weeks": 604800.0},
    {
        "metres per second": 1.0,
        "kilometres per hour": 1 / 3.6,
        "miles per hour": 0.44704,
        "knots": 1852 / 3600,
    },
    {"megabytes": 1.0, "kilobytes": 0.001, "gigabytes": 1000.0, "terabytes": 1_000_000.0},
)
_ASK = (
    "Convert {amount} {source} to {target}. Round to two decimals.",
    "How many {target} are {amount} {source}? Give two decimal places.",
    "The data sheet says {amount} {source}, but our form wants {target}. What do I enter, to two decimals?",
    "Express {amount} {source} in {target}, rounded to 2 decimals.",
    "A recipe from abroad lists {amount} {source}; what is that in {target} (two decimals)?",
)


def _temperature(rng: random.Random) -> tuple[float, str, str, float, float]:
    """Amount, both scales, the right value and the one of somebody who forgets the offset."""
    celsius = rng.randint(-40, 250)
    if chance(rng, 0.5):
        return celsius, "degrees Celsius", "degrees Fahrenheit", celsius * 9 / 5 + 32, celsius * 9 / 5
    return celsius, "degrees Fahrenheit", "degrees Celsius", (celsius - 32) * 5 / 9, celsius * 5 / 9


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a conversion; wrong answers invert the factor, forget the offset or slip the decimal point."""
    if chance(rng, 0.2):
        amount, source, target, value, slip = _temperature(rng)
    else:
        group = rng.choice(_UNITS)
        near = sorted(group)
        source, target = rng.sample(near, 2)
        amount = round(rng.uniform(1, 40 * difficulty), max(0, difficulty - 2))
        factor = group[source] / group[target]
        # Keeps the answer between a hundredth and a few millions, as a person would ask it.
        amount *= 10.0 ** max(0, round(-1 - _magnitude(amount * factor)))
        value, slip = amount * factor, amount / factor
    ask = rng.choice(_ASK).format(amount=f"{amount:.10g}", source=source, target=target)
    wrong = (number_text(slip, 2), number_text(value / 10, 2), *slip_number(rng, value, 2))
    return Question(prompt=ask, answer=number_text(value, 2), checker="numeric", wrong=wrong)


def _magnitude(value: float) -> int:
    """Decimal exponent of a positive number: 0 for 1..9.99, -1 for 0.1..0.99."""
    return int(f"{value:e}".split("e")[1])
