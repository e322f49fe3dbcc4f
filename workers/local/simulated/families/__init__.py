"""Twelve families of prompts whose answers a program can check."""

from collections.abc import Mapping
from types import MappingProxyType

from workers.local.simulated.families import (
    arithmetic,
    code_output,
    counting,
    dates,
    formats,
    json_extraction,
    logic,
    lookup,
    sequences,
    sorting,
    strings,
    unit_conversion,
)
from workers.local.simulated.families.question import Draw, Question

#: Every family's generator by its name.
FAMILIES: Mapping[str, Draw] = MappingProxyType(
    {
        "arithmetic": arithmetic.draw,
        "code_output": code_output.draw,
        "counting": counting.draw,
        "dates": dates.draw,
        "formats": formats.draw,
        "json_extraction": json_extraction.draw,
        "logic": logic.draw,
        "lookup": lookup.draw,
        "sequences": sequences.draw,
        "sorting": sorting.draw,
        "strings": strings.draw,
        "unit_conversion": unit_conversion.draw,
    }
)

__all__ = ["FAMILIES", "Draw", "Question"]
