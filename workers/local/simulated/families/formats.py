"""Formats: make up a code, a time or a user name that keeps to a rule."""

import random
import string

from workers.local.simulated.families.question import INVOLVED, Question
from workers.local.simulated.families.vocabulary import PLACES, WORDS

_CAPITALS = string.ascii_uppercase
_DIGITS = string.digits


def _pick(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def _code(rng: random.Random, difficulty: int) -> tuple[str, str, str]:
    """Letters, a separator and digits, the harder ones with a fixed ending."""
    letters, digits = rng.randint(2, 2 + difficulty), rng.randint(3, 3 + difficulty)
    mark, last = rng.choice("-/_"), rng.choice(_DIGITS)
    names = {"-": "a hyphen", "/": "a slash", "_": "an underscore"}
    rule = f"{letters} capital letters, {names[mark]} and {digits} digits"
    pattern, example = (
        rf"[A-Z]{{{letters}}}{mark}[0-9]{{{digits}}}",
        _pick(rng, _CAPITALS, letters) + mark + _pick(rng, _DIGITS, digits),
    )
    if difficulty >= INVOLVED:
        rule += f", where the last digit is {last}"
        pattern = rf"[A-Z]{{{letters}}}{mark}[0-9]{{{digits - 1}}}{last}"
        example = example[:-1] + last
    what = rng.choice(("product code", "inventory label", "serial number", "locker code"))
    return f"Make up a {what} for {rng.choice(PLACES)} that consists of {rule}.", pattern, example


def _username(rng: random.Random, difficulty: int) -> tuple[str, str, str]:
    """A lower-case word, a dot, and a number of given length."""
    word, digits = rng.choice(WORDS), rng.randint(2, 2 + difficulty)
    ask = rng.choice(
        (
            f"Invent a user name of the form {word}, a dot, and exactly {digits} digits, all without spaces.",
            f"Suggest one valid login: the word {word}, then a dot, then {digits} digits.",
        )
    )
    return ask, rf"{word}\.[0-9]{{{digits}}}", f"{word}.{_pick(rng, _DIGITS, digits)}"


def _colour(rng: random.Random, difficulty: int) -> tuple[str, str, str]:
    """A hexadecimal colour that starts as asked."""
    start = _pick(rng, "0123456789ABCDEF", min(4, difficulty))
    ask = rng.choice(
        (
            f"Give a colour as a hash sign and six hexadecimal digits in capitals that starts with #{start}.",
            f"Write one valid HTML colour code in capitals, six digits long, which begins with #{start}.",
        )
    )
    rest = 6 - len(start)
    return ask, rf"#{start}[0-9A-F]{{{rest}}}", f"#{start}{_pick(rng, '0123456789ABCDEF', rest)}"


def draw(rng: random.Random, difficulty: int) -> Question:
    """Draw a rule for a made-up code; wrong answers are too short, too long or miss the separator."""
    ask, pattern, example = rng.choice((_code, _username, _colour))(rng, difficulty)
    ending = rng.choice(("Reply with it alone.", "Only the code, please.", "One example is enough."))
    wrong = (example[:-1], example + "00", example.swapcase()[:-1] + "*", example[1:])
    return Question(prompt=f"{ask} {ending}", answer=example, checker="regex", pattern=pattern, wrong=wrong)
