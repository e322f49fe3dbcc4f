"""Arithmetic: sums of a shop, a budget or a journey, and bare expressions."""

import random

from workers.local.simulated.families.question import Question, chance, number_text, slip_number
from workers.local.simulated.families.vocabulary import PEOPLE, PLACES, PRODUCTS


def _expression(rng: random.Random, difficulty: int) -> tuple[str, int]:
    """A bare expression with as many operators as its difficulty, and its value."""
    terms = [str(rng.randint(3, 20 * difficulty)) for _ in range(difficulty + 1)]
    operators = [rng.choice("+-*" if i % 2 == 0 else "+-") for i in range(difficulty)]
    text = terms[0] + "".join(f" {op} {term}" for op, term in zip(operators, terms[1:], strict=True))
    value = _evaluate(terms, operators)
    ask = rng.choice(
        (
            "Calculate {} by hand. Reply with the number only.",
            "What is {}? Give just the result.",
            "Evaluate the arithmetic expression {} and answer with a single number.",
            "Please work out {} for me, the usual order of operations applies.",
        )
    )
    return ask.format(text), value


def _evaluate(terms: list[str], operators: list[str]) -> int:
    """Value of the expression; a product binds tighter than a sum."""
    total, product, sign = 0, int(terms[0]), 1
    for operator, term in zip(operators, terms[1:], strict=True):
        if operator == "*":
            product *= int(term)
        else:
            total, product, sign = total + sign * product, int(term), 1 if operator == "+" else -1
    return total + sign * product


def _purchase(rng: random.Random, difficulty: int) -> tuple[str, int]:
    """What several lots of goods cost together, less a payment."""
    items = rng.sample(PRODUCTS, min(difficulty, 4))
    lots = [(rng.randint(2, 9 * difficulty), rng.randint(3, 15 * difficulty), item) for item in items]
    listed = ", ".join(f"{count} {item} at {price} euros each" for count, price, item in lots)
    total = sum(count * price for count, price, _ in lots)
    paid = rng.randint(total // 4, total - 1)
    opening = f"{rng.choice(PEOPLE)} orders {listed} for {rng.choice(PLACES)}."
    if difficulty > 1 and chance(rng, 0.5):
        return f"{opening} {paid} euros were paid in advance. How many euros are still owed?", total - paid
    ask = rng.choice(
        (
            "What is the total price in euros?",
            "How much money is that altogether?",
            "What does the bill come to?",
        )
    )
    return f"{opening} {ask}", total


def _stock(rng: random.Random, difficulty: int) -> tuple[str, int]:
    """What is left of a stock after deliveries and sales."""
    item = rng.choice(PRODUCTS)
    stock = rng.randint(50, 200 * difficulty)
    story = [f"{rng.choice(PLACES).capitalize()} starts the week with {stock} {item}."]
    for _ in range(difficulty):
        boxes, each, sold = rng.randint(2, 12), rng.randint(4, 12 * difficulty), rng.randint(5, 50)
        story.append(f"Then {boxes} boxes of {each} arrive and {sold} are sold.")
        stock += boxes * each - sold
    ask = rng.choice((f"How many {item} are left?", f"What is the number of {item} in stock at the end?"))
    return " ".join((*story, ask)), stock


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a sum with a whole answer; wrong answers drop a carry, slip a place or swap two digits."""
    prompt, value = rng.choice((_expression, _purchase, _stock))(rng, difficulty)
    return Question(
        prompt=prompt, answer=number_text(value), checker="numeric", wrong=slip_number(rng, float(value))
    )
