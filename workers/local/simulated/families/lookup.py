"""Look-up: a value found in a table or in notes that stand in the prompt."""

import random

from workers.local.simulated.families.question import Question, chance
from workers.local.simulated.families.vocabulary import BACKGROUND, CITIES, PEOPLE, SURNAMES

_COLUMNS = {
    "city": CITIES,
    "manager": SURNAMES,
    "team": ("Amber", "Cobalt", "Crimson", "Indigo", "Jade", "Ochre", "Saffron", "Teal", "Umber", "Violet"),
    "shift": ("morning", "evening", "night", "weekend", "standby", "holiday"),
    "badge": tuple(f"{letter}{number}" for letter in "KLMNPR" for number in range(110, 190, 7)),
}


def _layout(rng: random.Random, header: list[str], rows: list[list[str]]) -> str:
    """Write the rows as a markdown table, as CSV or as notes."""
    kind = rng.choice(("table", "csv", "notes"))
    if kind == "table":
        rule = "|".join("---" for _ in header)
        return "\n".join(("| " + " | ".join(r) + " |") if r else f"|{rule}|" for r in (header, [], *rows))
    if kind == "csv":
        return "\n".join(",".join(r) for r in (header, *rows))
    return "\n".join(
        f"{r[0]}: " + "; ".join(f"{h} {v}" for h, v in zip(header[1:], r[1:], strict=True)) for r in rows
    )


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a staff table of 4 to 16 rows; wrong answers come from the next row or the next column."""
    size = 2 + 3 * difficulty - rng.randint(0, 1)
    columns = rng.sample(sorted(_COLUMNS), min(5, 1 + (difficulty + 1) // 2))
    people = rng.sample(PEOPLE, size)
    rows = [[person, *(rng.choice(_COLUMNS[column]) for column in columns)] for person in people]
    row, column = rng.randrange(size), rng.randrange(len(columns))
    person, answer = rows[row][0], rows[row][column + 1]
    ask = rng.choice(
        (
            f"According to the list, what is the {columns[column]} of {person}?",
            f"Look up {person} in the staff table. Which {columns[column]} is given?",
            f"Find the {columns[column]} recorded for {person}.",
            f"Which {columns[column]} belongs to {person}?",
        )
    )
    table = _layout(rng, ["name", *columns], rows)
    notes = " ".join(rng.sample(BACKGROUND, difficulty // 2))
    prompt = f"{ask}\n\n{table}" if chance(rng, 0.5) else f"{notes}\n{table}\n\n{ask}".strip()
    others = [v for v in _COLUMNS[columns[column]] if v != answer]
    wrong = (
        rows[(row + 1) % size][column + 1],
        rows[row - 1][column + 1],
        rows[row][1 + (column + 1) % len(columns)],
        *rng.sample(others, 2),
    )
    return Question(prompt=prompt, answer=answer, checker="exact", wrong=wrong)
