"""Hold a reply against a reference answer: a small pure function per way of checking."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

import msgspec

from workers.errors import UsageError
from workers.programs import run_program

#: How a reply is held against the answer. ``output`` is what a program prints, line by line, as the reply
#: says it: nothing is run.
Checker = Literal["exact", "numeric", "choice", "regex", "json", "listing", "output"]
#: ``program``: the reply is a Python program, which is run, and its output is held against the answer.
#: ``judge``: an LLM says how likely the reply is right; it is shown the answer where there is one.
Grader = Checker | Literal["program", "judge"]
#: A judge is shown no longer answer: it travels in a header.
_MOST_JUDGED_BYTES = 3 * 1024

_MARKER = re.compile(r"(?i)\b(?:answer|result|output)\b\**\s*(?:is|:|=)?\s*[:=]?\**\s*")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FENCE = re.compile(r"```[a-zA-Z0-9]*\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_LETTER = re.compile(r"^[(\[]?([A-Z])(?:[)\].:,]|\s|$)")
_WRAPPING = " \t\r\n`*\"'"


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt with a right answer and the way to check a reply."""

    prompt: str
    #: Empty only for a judge.
    answer: str = ""
    checker: Grader = "exact"
    #: What a right answer matches in full, for the checker ``regex``.
    pattern: str = ""
    #: What a program is given to read, for ``program``.
    stdin: str = ""

    def check(self) -> None:
        """Raise ``UsageError`` for one whose own answer its checker would not take for right."""
        if self.checker == "judge":
            if len(self.answer.encode()) > _MOST_JUDGED_BYTES:
                raise UsageError(f"a judge is shown answers of at most {_MOST_JUDGED_BYTES} bytes")
            return
        if not self.answer:
            raise UsageError(f"the {self.checker} checker needs an answer")
        if self.checker == "program":
            return  # the answer is what a program prints, not a program
        try:
            right = grade(self, self.answer)
        except (ValueError, re.error) as error:
            raise UsageError(f"the {self.checker} answer cannot be checked: {error}") from error
        if not right:
            raise UsageError(f"the {self.checker} checker refuses the answer {self.answer[:60]!r} itself")


class Checkable(Protocol):
    """What a grader needs to know of a task."""

    @property
    def answer(self) -> str:
        """A right answer."""

    @property
    def checker(self) -> Grader:
        """The way of checking."""

    @property
    def pattern(self) -> str:
        """What a right answer matches in full, for the checker ``regex``."""


def grade(task: Checkable, reply: str) -> float:
    r"""Score a reply: 1.0 if its final answer is right, else 0.0.

    The final answer is what stands in ``\boxed{}``, in a code fence, after the last "answer is", on the last
    line, or is the whole reply; one of them being right is enough. Every reply, however odd, gets a score.
    ``UsageError`` where a judge is to say so, or a program is to be run.
    """
    if task.checker == "judge" or task.checker == "program":  # noqa: PLR1714  # the type checker follows it
        raise UsageError(f"no checker grades this prompt but a {task.checker}")
    return 1.0 if _CHECKS[task.checker](task, reply) else 0.0


def grade_program(task: Reference, reply: str) -> float:
    """Run the program in a reply's last fence, or the whole reply, and score what it prints: 1.0 or 0.0.

    It is compared line by line, blanks at the ends of lines apart. See ``workers.programs`` for what a
    program may do.
    """
    source = _FENCE.findall(reply)[-1:] or [reply]
    printed = run_program(source[0], stdin=task.stdin)
    return 1.0 if printed is not None and _lines(printed) == _lines(task.answer) else 0.0


def _finals(reply: str) -> Iterator[str]:
    """Give the places where a final answer may stand, the most explicit first."""
    text = reply.strip()
    yield from _BOXED.findall(text)[-1:]
    yield from _FENCE.findall(text)[-1:]
    markers = list(_MARKER.finditer(text))
    if markers:
        yield text[markers[-1].end() :].split("\n", 1)[0]
    yield text.rsplit("\n", 1)[-1]
    yield text


def _bare(text: str) -> str:
    """Take off quotes, emphasis and a closing full stop; narrow runs of blanks to one."""
    stripped = text.strip(_WRAPPING)
    if stripped.endswith("."):
        stripped = stripped[:-1].rstrip(_WRAPPING)
    return " ".join(stripped.split())


def _is_exact(task: Checkable, reply: str) -> bool:
    """Equal but for wrapping and for capitals."""
    wanted = _bare(task.answer).casefold()
    return any(_bare(final).casefold() == wanted for final in _finals(reply))


def _is_match(task: Checkable, reply: str) -> bool:
    """Match the pattern in full, capitals included."""
    return any(re.fullmatch(task.pattern, _bare(final)) is not None for final in _finals(reply))


def _items(text: str) -> list[str]:
    parts = re.split(r"[,\n]", text.strip().strip("[]"))
    bare = (_bare(re.sub(r"^\s*(?:[-*]|\d+[.)])\s+", "", part)).casefold() for part in parts)
    return [item for item in bare if item]


def _is_listing(task: Checkable, reply: str) -> bool:
    """Hold the same items in the same order, on one line or several."""
    wanted = _items(task.answer)
    return any(_items(final) == wanted for final in _finals(reply))


def _is_number(task: Checkable, reply: str) -> bool:
    """Equal as written: whole numbers exactly, others within half of the answer's last decimal place.

    The first number after "answer is" counts, else the last number of the reply.
    """
    wanted = float(task.answer)
    decimals = len(task.answer.partition(".")[2])
    tolerance = 0.5001 * 10.0**-decimals if decimals else 0.0
    found = _final_number(reply.replace("−", "-"))  # noqa: RUF001 (the typographic minus that LLMs write)
    return found is not None and abs(found - wanted) <= tolerance


def _final_number(reply: str) -> float | None:
    boxed = _BOXED.findall(reply)
    if boxed and (numbers := _NUMBER.findall(boxed[-1])):
        return _value(numbers[0])
    markers = list(_MARKER.finditer(reply))
    if markers and (numbers := _NUMBER.findall(reply[markers[-1].end() :])):
        return _value(numbers[0])
    numbers = _NUMBER.findall(reply)
    return _value(numbers[-1]) if numbers else None


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _is_choice(task: Checkable, reply: str) -> bool:
    """Name the letter: alone, in brackets, or before its option; the most explicit place decides."""
    for final in _finals(reply):
        found = _LETTER.match(re.sub(r"[*`]", "", final).strip(_WRAPPING))
        if found:
            return found.group(1) == task.answer
    return False


def _is_json(task: Checkable, reply: str) -> bool:
    """Hold an equal value: keys in any order, 1 equal to 1.0 but not to true nor to "1"."""
    wanted = _typed(json.loads(task.answer))
    return any(_typed(value) == wanted for value in _json_values(reply))


def _json_values(reply: str) -> Iterator[Any]:
    for text in (*_FENCE.findall(reply)[-1:], reply, reply[reply.find("{") : reply.rfind("}") + 1]):
        try:
            yield json.loads(text)
        except (ValueError, RecursionError):
            continue


def _typed(value: Any) -> Any:  # noqa: ANN401 (JSON is of any type)
    """Tag each scalar by its JSON type, since Python holds True equal to 1."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    kind = (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )
    return kind, value


def _is_output(task: Checkable, reply: str) -> bool:
    """Equal line by line, in a fence or as the whole reply; blanks at the ends of lines do not count."""
    wanted = _lines(task.answer)
    return any(_lines(text) == wanted for text in (*_FENCE.findall(reply)[-1:], reply))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


_CHECKS: Mapping[Checker, Callable[[Checkable, str], bool]] = MappingProxyType(
    {
        "exact": _is_exact,
        "numeric": _is_number,
        "choice": _is_choice,
        "regex": _is_match,
        "json": _is_json,
        "listing": _is_listing,
        "output": _is_output,
    }
)
