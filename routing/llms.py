"""What the core knows of an LLM: its name, its price, and what it can take and do."""

import math
from dataclasses import dataclass, field

from routing.errors import InvalidInputError, UnknownPriceError

#: Tokens an answer is expected to have until the usage of real replies says better.
DEFAULT_OUTPUT_TOKENS = 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a call costs: ``(fresh * in + cached * cached_in + output * out) / 1e6 + fixed`` USD.

    ``fresh`` and ``cached`` are the parts of the prompt's tokens that the LLM reads anew and finds in its
    cache. Every field is finite and at least 0; 0 is a price, ``None`` and NaN are not (``UnknownPriceError``
    where the LLM's name is known, see ``LLM``; ``InvalidInputError`` for a negative or infinite number), but
    for ``cached_input_usd_per_mtok``.
    """

    #: USD for a million tokens of the prompt.
    input_usd_per_mtok: float
    #: USD for a million tokens of the answer.
    output_usd_per_mtok: float
    #: USD for the call itself.
    fixed_usd: float = 0.0
    #: USD for a million tokens of the prompt that the LLM has in its cache; ``None``: as any other.
    cached_input_usd_per_mtok: float | None = None

    def __post_init__(self) -> None:
        for name in ("input_usd_per_mtok", "output_usd_per_mtok", "fixed_usd"):
            value = getattr(self, name)
            if is_unknown(value):
                raise UnknownPriceError("(unnamed)", name)
            if not math.isfinite(value) or value < 0:
                raise InvalidInputError(name, f"must be a finite number of USD, at least 0, not {value!r}")
        cached = self.cached_input_usd_per_mtok
        if cached is not None and not (math.isfinite(cached) and cached >= 0):
            raise InvalidInputError(
                "cached_input_usd_per_mtok",
                f"must be a finite number of USD, at least 0, or not be given, not {cached!r}",
            )

    @property
    def cached_usd_per_mtok(self) -> float:
        """USD for a million cached tokens of the prompt, given or not."""
        given = self.cached_input_usd_per_mtok
        return self.input_usd_per_mtok if given is None else given


def is_unknown(price: float | None) -> bool:
    """Whether ``price`` says nothing: ``None`` or NaN, as in a table with a hole."""
    return price is None or math.isnan(price)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLM:
    """One LLM that prompts may be routed to.

    Raises ``UnknownPriceError`` without a price and ``InvalidInputError`` for any other impossible field.
    """

    #: Unique; decides ties, and names the dispatch topic.
    name: str
    price: Price
    #: Tokens that prompt and answer may have together; ``None``: no limit is known.
    context_length: int | None = None
    #: What it declares to do, e.g. ``{"tools", "vision", "json"}``.
    capabilities: frozenset[str] = field(default_factory=frozenset)
    #: Its answers come from a simulation, and whoever shows its numbers says so.
    simulated: bool = False
    #: Expected tokens of an answer before any usage has been seen.
    expected_output_tokens: float = DEFAULT_OUTPUT_TOKENS

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or self.name != self.name.strip():
            raise InvalidInputError("name", f"must be printable and not empty, not {self.name!r}")
        # The annotation forbids None, but registries read from files and forms.
        if not isinstance(self.price, Price):
            raise UnknownPriceError(self.name, "price")
        if self.context_length is not None and self.context_length < 1:
            raise InvalidInputError("context_length", f"must be at least 1, not {self.context_length!r}")
        if not math.isfinite(self.expected_output_tokens) or self.expected_output_tokens < 0:
            raise InvalidInputError(
                "expected_output_tokens",
                f"must be finite and at least 0, not {self.expected_output_tokens!r}",
            )
        object.__setattr__(self, "capabilities", frozenset(self.capabilities))
