"""One line of OpenAI's batch file: its envelope, and the prompt that it becomes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import msgspec

from workers import messages
from workers.errors import PoisonError, UsageError
from workers.messages import Headers, Message
from workers.prompts import Prompt, read_prompt
from workers.settings import Settings

ENDPOINT = "/v1/chat/completions"
_MAX_ID_BYTES = 512
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
ORDERS = ("completion", "input")
_LONGEST = timedelta(days=365)


class LineEnvelope(msgspec.Struct):
    """OpenAI's batch request."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What holds for all lines of a batch."""

    budget_usd: float | None = None
    #: Name of a policy; ``None``: the plan's lambda where there is a budget or a quality, else the default.
    policy: str | None = None
    #: The least mean of 1 - predicted error; met at the least cost.
    min_quality: float | None = None
    #: ``completion`` or ``input``: of the output file.
    order: str = "completion"
    #: Where the results are copied to when they are complete: a folder.
    output: str | None = None
    metadata: Mapping[str, str] | None = None
    #: The time for it, as it was asked for.
    window: str | None = None

    def __post_init__(self) -> None:
        if self.budget_usd is not None and not 0 < self.budget_usd < 1e9:  # noqa: PLR2004
            raise UsageError(f"a budget is above 0 and below 1e9 USD, not {self.budget_usd}")
        if self.min_quality is not None and not 0 <= self.min_quality <= 1:
            raise UsageError(f"a quality is in 0..1, not {self.min_quality}")
        if self.policy is not None and self.min_quality is not None:
            raise UsageError("give a policy or a least quality, not both")
        if self.order not in ORDERS:
            raise UsageError(f"an order is one of {', '.join(ORDERS)}, not {self.order!r}")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``as_dict`` gave."""
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that are set."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What every prompt of a batch carries as headers."""

    batch_id: str
    reply_to: str
    deadline: datetime | None = None
    tenant: str = ""

    @property
    def headers(self) -> Headers:
        """Give the headers."""
        found: Headers = ((messages.REPLY_TO, self.reply_to.encode()), (messages.LANE, b"batch"))
        if self.deadline is not None:
            found = (*found, (messages.DEADLINE, self.deadline.isoformat().encode()))
        if self.tenant:
            found = (*found, (messages.TENANT, self.tenant.encode()))
        return found


def read_duration(text: str) -> timedelta:
    """Read 90s, 30m, 6h or 2d, a year at most; ``UsageError`` otherwise."""
    found = re.fullmatch(r"(\d{1,8}(?:\.\d+)?)([smhd])", text.strip())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{text[:40]!r} is no time: give a number with s, m, h or d, 6h for example")
    duration = timedelta(**{_UNITS[found[2]]: float(found[1])})
    if duration > _LONGEST:
        raise UsageError(f"{text[:40]!r} is too long: {_LONGEST.days}d at most")
    return duration


def read_envelope(value: bytes) -> LineEnvelope:
    """Read a line; ``PoisonError`` of class ``wrong_encoding``, ``not_json`` or ``invalid_line``."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise PoisonError("wrong_encoding", f"the line is not UTF-8: {error.reason}") from error
    try:
        found = msgspec.json.decode(value, type=LineEnvelope)
    except msgspec.ValidationError as error:
        raise PoisonError("invalid_line", f"the line has the wrong shape: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise PoisonError("not_json", f"the line is not JSON: {error}") from error
    if not 0 < len(found.custom_id.encode()) <= _MAX_ID_BYTES:
        raise PoisonError("invalid_line", f"custom_id must have 1 to {_MAX_ID_BYTES} bytes")
    if found.method != "POST" or found.url != ENDPOINT:
        raise PoisonError(
            "invalid_line", f"a line reads POST {ENDPOINT}, not {found.method} {found.url}"[:300]
        )
    return found


def make_prompt(body: bytes, line: int, wishes: Wishes, settings: Settings) -> Prompt:
    """Give the prompt that a line's body is, under the id ``BATCH:LINE``; raises as ``read_prompt`` does."""
    key = f"{wishes.batch_id}:{line}".encode()
    message = Message(
        topic=f"{settings.topic_prefix}prompts",
        partition=0,
        offset=line,
        timestamp_ms=0,
        key=key,
        value=body,
        headers=(("ce_id", key), *wishes.headers),
    )
    return read_prompt(message, settings)
