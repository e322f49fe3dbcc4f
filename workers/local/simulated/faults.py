"""Fault scenarios: which calls to a simulated LLM go wrong, how, and when; read from TOML or JSON."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from workers.errors import UsageError

#: A scenario that comes with the package: every kind of fault, rarely, on every LLM.
EVERY_FAULT = Path(__file__).with_name("every_fault.toml")

Probability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """When a fault strikes: every condition that is given must hold."""

    #: The LLMs that have it; all when omitted.
    llms: tuple[str, ...] | None = None
    #: Of each call that the other conditions leave.
    probability: Probability = 1.0
    #: Seconds since the scenario was set.
    from_s: Seconds = 0.0
    until_s: Seconds | None = None
    #: Calls that the LLM has had before, since the server started.
    from_call: Count = 0
    until_call: Count | None = None

    def strikes(self, call: "Call") -> bool:
        """Whether the conditions hold for the call, but for the probability."""
        return (
            (self.llms is None or call.llm in self.llms)
            and self.from_s <= call.at_s
            and (self.until_s is None or call.at_s < self.until_s)
            and self.from_call <= call.earlier_calls
            and (self.until_call is None or call.earlier_calls < self.until_call)
        )


class Latency(Fault, frozen=True, kw_only=True, tag="latency"):
    """The answer takes ``scale`` times its usual time and ``extra_s`` more; another fault may strike too."""

    scale: Seconds = 1.0
    extra_s: Seconds = 0.0


class RateLimit(Fault, frozen=True, kw_only=True, tag="rate_limit"):
    """Status 429; with a Retry-After header where ``retry_after_s`` is given."""

    retry_after_s: Seconds | None = None


class ServerError(Fault, frozen=True, kw_only=True, tag="server_error"):
    """A status of the 500s, with OpenAI's error body."""

    status: Annotated[int, msgspec.Meta(ge=500, le=599)] = 500


class Hang(Fault, frozen=True, kw_only=True, tag="hang"):
    """Not a byte for so long, then the usual answer."""

    hang_s: Seconds = 60.0


class Reset(Fault, frozen=True, kw_only=True, tag="reset"):
    """The connection is reset when half of the body is sent."""


class TruncatedJson(Fault, frozen=True, kw_only=True, tag="truncated_json"):
    """A complete HTTP response whose JSON ends in the middle."""


class WrongContentType(Fault, frozen=True, kw_only=True, tag="wrong_content_type"):
    """Status 200 with a page of HTML, as proxies give."""

    content_type: str = "text/html"


class MissingUsage(Fault, frozen=True, kw_only=True, tag="missing_usage"):
    """The usual answer without the token counts."""


class HugeBody(Fault, frozen=True, kw_only=True, tag="huge_body"):
    """The answer's text is padded to so many megabytes."""

    megabytes: Annotated[float, msgspec.Meta(gt=0.0, le=256.0)] = 16.0


class Trickle(Fault, frozen=True, kw_only=True, tag="trickle"):
    """The body arrives in small pieces, over so many seconds."""

    trickle_s: Seconds = 30.0


AnyFault = (
    Latency
    | RateLimit
    | ServerError
    | Hang
    | Reset
    | TruncatedJson
    | WrongContentType
    | MissingUsage
    | HugeBody
    | Trickle
)


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults in order of precedence: of those that strike a call, the first one decides."""

    seed: int = 0
    fault: tuple[AnyFault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, as faults see it."""

    llm: str
    prompt_id: str
    #: 0 for the first call of this prompt to this LLM.
    attempt: int
    #: Seconds since the scenario was set.
    at_s: float
    #: Calls that the LLM has had before this one.
    earlier_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens to a call."""

    latency_scale: float = 1.0
    extra_s: float = 0.0
    #: What else goes wrong; never a ``Latency``.
    fault: Fault | None = None


def plan_call(scenario: Scenario, call: Call) -> Plan:
    """Draw what happens to a call: the same for the same attempt, prompt, LLM and seed."""
    scale, extra_s = 1.0, 0.0
    other: Fault | None = None
    for index, fault in enumerate(scenario.fault):
        if not fault.strikes(call) or _uniform(scenario.seed, index, call) >= fault.probability:
            continue
        if isinstance(fault, Latency):
            scale, extra_s = scale * fault.scale, extra_s + fault.extra_s
        elif other is None:
            other = fault
    return Plan(latency_scale=scale, extra_s=extra_s, fault=other)


def fault_kind(fault: Fault | None) -> str | None:
    """Name a fault as scenario files do."""
    return None if fault is None else str(fault.__struct_config__.tag)


def read_scenario(path: Path, *, llms: Sequence[str] | None = None) -> Scenario:
    """Read a scenario file: TOML (``[[fault]]`` tables) if it ends in .toml, else JSON.

    Raises ``UsageError`` that says where the file is wrong: an unknown key, kind or, with
    ``llms``, LLM; a value of the wrong type or range.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    return parse_scenario(content, source=str(path), llms=llms)


def parse_scenario(content: Any, *, source: str, llms: Sequence[str] | None = None) -> Scenario:  # noqa: ANN401
    """Check decoded TOML or JSON; ``source`` names it in errors, which are as for :func:`read_scenario`."""
    try:
        scenario = msgspec.convert(content, Scenario)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {error}") from error
    for name in (name for fault in scenario.fault for name in fault.llms or ()):
        if llms is not None and name not in llms:
            raise UsageError(f"{source} names an unknown LLM {name!r}; there are: {', '.join(llms)}")
    return scenario


def _uniform(seed: int, index: int, call: Call) -> float:
    parts = f"{seed}/{index}/{call.llm}/{call.prompt_id}/{call.attempt}"
    return int.from_bytes(hashlib.blake2b(parts.encode(), digest_size=7).digest()) / 2**56
