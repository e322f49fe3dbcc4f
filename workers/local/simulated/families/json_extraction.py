"""JSON extraction: an e-mail, a ticket or an order turned into an object with given keys."""

import json
import random

from workers.local.simulated.families.question import Question, chance
from workers.local.simulated.families.vocabulary import BACKGROUND, CITIES, PEOPLE, PRODUCTS, SURNAMES

Fields = dict[str, str | int]


def _order(rng: random.Random) -> tuple[str, Fields]:
    fields: Fields = {
        "customer": f"{rng.choice(PEOPLE)} {rng.choice(SURNAMES)}",
        "city": rng.choice(CITIES),
        "quantity": rng.randint(2, 90),
        "item": rng.choice(PRODUCTS),
        "order_number": rng.randint(10_000, 99_999),
        "price_eur": rng.randint(20, 900),
        "payment": rng.choice(("invoice", "card", "cash", "transfer")),
    }
    text = (
        "Hi, this is {customer} from {city}. I would like to order {quantity} {item}; the reference on your"
        " page is order number {order_number}. The total of {price_eur} EUR will be paid by {payment}."
    )
    return text.format(**fields), fields


def _ticket(rng: random.Random) -> tuple[str, Fields]:
    fields: Fields = {
        "ticket": rng.randint(1000, 9999),
        "reporter": rng.choice(PEOPLE),
        "severity": rng.choice(("low", "medium", "high", "critical")),
        "device": rng.choice(("printer", "router", "projector", "badge reader", "laptop", "scanner")),
        "room": rng.randint(100, 499),
        "site": rng.choice(CITIES),
        "minutes_down": rng.randint(5, 240),
    }
    text = (
        "Ticket {ticket}, opened by {reporter}: the {device} in room {room} of the {site} site has been down"
        " for {minutes_down} minutes. Severity was set to {severity} by the help desk."
    )
    return text.format(**fields), fields


def _booking(rng: random.Random) -> tuple[str, Fields]:
    start, end = rng.sample(CITIES, 2)
    fields: Fields = {
        "passenger": f"{rng.choice(PEOPLE)} {rng.choice(SURNAMES)}",
        "from": start,
        "to": end,
        "seat": f"{rng.randint(1, 40)}{rng.choice('ABCDEF')}",
        "bags": rng.randint(1, 5),
        "fare_eur": rng.randint(40, 700),
        "gate": rng.randint(1, 60),
    }
    text = (
        "Booking for {passenger}: travel from {from} to {to}, seat {seat}, {bags} bags checked in."
        " Fare paid: {fare_eur} euros. Boarding is at gate {gate}."
    )
    return text.format(**fields), fields


def _slips(rng: random.Random, wanted: Fields, others: Fields) -> tuple[str, ...]:
    """A key lost, a key too many, numbers as text, a value of another field, an altered value."""
    keys = sorted(wanted)
    lost, altered = rng.choice(keys), rng.choice(keys)
    spare: Fields = {k: v for k, v in others.items() if k not in wanted}
    value = wanted[altered]
    changed = value + rng.randint(1, 9) if isinstance(value, int) else value[:-1]
    slips: list[Fields] = [
        {k: v for k, v in wanted.items() if k != lost},
        {**wanted, altered: changed},
        {**wanted, altered: rng.choice([v for v in others.values() if v != value])},
        {k: str(v) for k, v in wanted.items()},
        {**wanted, **dict(rng.sample(sorted(spare.items()), min(1, len(spare))))},
    ]
    return tuple(json.dumps(slip) for slip in slips)


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a text and the keys to take from it; wrong answers lose a key, mistake a type or mix up values."""
    text, fields = rng.choice((_order, _ticket, _booking))(rng)
    wanted: Fields = dict(rng.sample(sorted(fields.items()), min(len(fields), 1 + difficulty)))
    keys = ", ".join(f'"{key}"' for key in wanted)
    ask = rng.choice(
        (
            f"Extract a JSON object with the keys {keys} from the message. Numbers stay numbers.",
            f"Return JSON with exactly these keys: {keys}. Use integers for numbers and no other text.",
            f"Parse the message into a JSON object that has the fields {keys} (numeric values as integers).",
        )
    )
    body = f"{text} {' '.join(rng.sample(BACKGROUND, difficulty // 2))}".strip()
    prompt = f"{ask}\n\n{body}" if chance(rng, 0.6) else f"{body}\n\n{ask}"
    return Question(
        prompt=prompt, answer=json.dumps(wanted), checker="json", wrong=_slips(rng, wanted, fields)
    )
