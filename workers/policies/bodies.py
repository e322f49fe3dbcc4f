"""Reads a policy's body key by key; every error names the policy, the key, and what would do."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from routing.errors import InvalidInputError

_SHOWN = 60


class Body:
    """What was declared under one name.

    Raises ``InvalidInputError`` for a key that is not among ``keys`` (``None`` for any), and from each method
    for a value that is missing or cannot be used.
    """

    def __init__(self, name: str, values: Mapping[str, Any], *, keys: Collection[str] | None = None) -> None:
        self._name = name
        self._values = values
        if keys is not None and (unknown := sorted(str(key) for key in values if key not in keys)):
            raise self.error(f"unknown key {_show(unknown[0])}; known: {', '.join(sorted(keys))}")

    def error(self, problem: str) -> InvalidInputError:
        """Give the error that names this policy."""
        return InvalidInputError(f"policy {self._name}", problem)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def number(
        self, key: str, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
    ) -> float:
        """Give a finite number in the range."""
        value = self._get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # an integer of hundreds of digits
                number = math.nan
            if math.isfinite(number) and above < number and least <= number <= most:
                return number
        raise self.error(f"{key} is {_show(value)}: give a number{_describe_range(above, least, most)}")

    def choice(self, key: str, options: Collection[str], *, default: str) -> str:
        """Give one of ``options``."""
        value = self._values.get(key, default)
        if not isinstance(value, str) or value not in options:
            raise self.error(f"{key} is {_show(value)}: known are {', '.join(options)}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Give true or false."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {_show(value)}: give true or false")
        return value

    def llm(self, key: str) -> str:
        """Give the name of an LLM."""
        value = self._get(key)
        if not _is_name(value):
            raise self.error(f"{key} is {_show(value)}: give the name of an LLM")
        return str(value)

    def llms(self, key: str) -> tuple[str, ...]:
        """Give a list of names of LLMs, each once, in its order; empty where the key is absent."""
        value = self._values.get(key, [])
        if (
            not isinstance(value, list | tuple)
            or not all(map(_is_name, value))
            or len(set(value)) < len(value)
        ):
            raise self.error(f"{key} is {_show(value)}: give a list of names of LLMs, each once")
        return tuple(value)

    def shares(self, key: str) -> dict[str, float]:
        """Give a mapping from names of LLMs to finite weights of at least 0, of which one is above."""
        value = self._get(key)
        if not isinstance(value, Mapping) or not all(map(_is_name, value)):
            raise self.error(f"{key} is {_show(value)}: give a mapping from an LLM's name to its weight")
        inner = Body(f"{self._name}, {key}", value, keys=value.keys())
        found = {name: inner.number(name, least=0.0, most=1e12) for name in value}
        if not any(found.values()):
            raise self.error(f"{key} gives no LLM a weight above 0")
        return found

    def text(self, key: str) -> str:
        """Give a text that is not empty."""
        value = self._get(key)
        if not _is_name(value):
            raise self.error(f"{key} is {_show(value)}: give a text")
        return str(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Give a list of finite numbers, at least one."""
        value = self._get(key)
        if not isinstance(value, list | tuple) or not value:
            raise self.error(f"{key} is {_show(value)}: give a list of numbers")
        items = Body(self._name, {f"{key}[{at}]": one for at, one in enumerate(value)})
        return tuple(items.number(name) for name in items)

    def inner(self, key: str, *, keys: Collection[str] | None = None) -> "Body":
        """Give a mapping inside this one; ``keys`` as the class says, ``None`` for any."""
        value = self._get(key)
        if not isinstance(value, Mapping) or not all(map(_is_name, value)):
            raise self.error(f"{key} is {_show(value)}: give a mapping")
        return Body(f"{self._name}, {key}", value, keys=keys)

    def _get(self, key: str) -> Any:  # noqa: ANN401  # whatever was declared
        if key not in self._values:
            raise self.error(f"{key} is missing")
        return self._values[key]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _show(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        text = "a number too long to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _describe_range(above: float, least: float, most: float) -> str:
    bounds = []
    if above > -math.inf:
        bounds.append(f"above {above:g}")
    if least > -math.inf:
        bounds.append(f"of at least {least:g}")
    if most < math.inf:
        bounds.append(f"at most {most:g}")
    return f" {' and '.join(bounds)}" if bounds else ""
