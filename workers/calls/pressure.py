"""What a provider's headers say of its limits: when there will be something left again."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
#: No header holds calls back for longer.
LONGEST_S = 600.0
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
    return min(LONGEST_S, max(waits, default=0.0))


def read_wait(headers: Mapping[str, str]) -> float | None:
    """Give the seconds that a refusal asks to wait; ``None`` where it does not say, or not readably.

    By ``Retry-After``, in seconds or as a date, which is held against the endpoint's own ``Date`` where it
    gives one, since clocks differ; else by ``read_pressure``.
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = _seconds_until(text, headers.get("date", ""))
    return seconds if 0 <= seconds < float("inf") else read_pressure(headers) or None


def _seconds_until(date: str, told_at: str) -> float:
    """Give the seconds from one date to the other, 0 for one that is past; -1 for what is no date."""
    until = _read_date(date)
    if until is None:
        return -1.0
    return max(0.0, (until - (_read_date(told_at) or datetime.now(UTC))).total_seconds())


def _read_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


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
