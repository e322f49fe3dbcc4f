"""What a provider's headers say of its limits: when there will be something left again."""

import re
from collections.abc import Mapping

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST_S = 600.0
_KINDS = ("requests", "tokens")


def read_pressure(headers: Mapping[str, str]) -> float:
    """Give the seconds for which nothing is left, by ``x-ratelimit-remaining-*`` and ``-reset-*``.

    0 where there is something left, or nothing is said, or nothing that can be read; 10 minutes at most.
    Resets are durations, as OpenAI writes them: ``1s``, ``6m0s``, ``20ms``, or seconds as a bare number.
    """
    waits = [
        _read_duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in _KINDS
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0"
    ]
    return min(_LONGEST_S, max(waits, default=0.0))


def _read_duration(text: str) -> float:
    text = text.strip()[:40]
    try:
        seconds = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if "".join(number + unit for number, unit in parts) != text:
            return 0.0
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return seconds if 0 <= seconds < float("inf") else 0.0
