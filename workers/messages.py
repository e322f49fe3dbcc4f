"""What crosses Kafka: raw messages and records, the wire types of each topic, CloudEvents headers."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec

from workers.decision_ids import MAX_NAME_BYTES
from workers.errors import PoisonError

Headers = tuple[tuple[str, bytes], ...]
Value = TypeVar("Value", bound=msgspec.Struct)
Content = TypeVar("Content")

JSON = b"application/json"
#: Names of the headers that say what a caller wishes.
REPLY_TO = "uniroute-reply-to"
POLICY = "uniroute-policy"
MAX_COST_USD = "uniroute-max-cost-usd"
MAX_ERROR = "uniroute-max-error"
DEADLINE = "uniroute-deadline"
CANDIDATES = "uniroute-candidates"
EXCLUDED = "uniroute-excluded"
CAPABILITIES = "uniroute-capabilities"
LANGUAGES = "uniroute-languages"
TENANT = "uniroute-tenant"
#: Names of the headers that say what was decided and done.
DECISION_ID = "uniroute-decision-id"
LLM = "uniroute-llm"
ATTEMPT = "uniroute-attempt"
#: On a reply: how often calls had been begun for it before, in lives that a crash or a move ended.
REPEATED_CALLS = "uniroute-repeated-calls"
#: Beside it, and on a dispatch that is handed on: at which LLM, with the USD: JSON, ``LostCalls`` per LLM.
LOST_CALLS = "uniroute-lost-calls"
PREDICTED_ERROR = "uniroute-predicted-error"
PREDICTED_COST_USD = "uniroute-predicted-cost-usd"
COST_USD = "uniroute-cost-usd"
#: On a reply or a dead letter: USD of calls whose usage nobody told, as estimated; absent where all was told.
UNSETTLED_USD = "uniroute-unsettled-usd"
#: Tokens of the prompt as the router estimated them, before any LLM counted them.
INPUT_TOKENS = "uniroute-input-tokens"
#: USD of the tenant's budget that a dispatch was reserved.
RESERVED_USD = "uniroute-reserved-usd"
#: On a dispatch by a policy that spends a budget: when the period began that it spends from, in Unix time.
POLICY_PERIOD = "uniroute-policy-period"
#: ``interactive``, ``batch`` or ``probe``.
LANE = "uniroute-lane"
#: The weight of the tenant among others, where it is not 1.
PRIORITY = "uniroute-priority"
#: Why the decision is not the one that the policy would have made: ``tenant_budget``. On a reply also
#: ``held_answer``: the LLM that a cascade asked next gave no answer.
DEGRADED = "uniroute-degraded"
TENANT_BUDGET = "tenant_budget"
#: LLMs to call, in this order, where the one that was chosen gives no answer; names, separated by commas.
FALLBACKS = "uniroute-fallbacks"
#: On what a fallback answers: the LLM that was chosen.
FALLBACK_FROM = "uniroute-fallback-from"
#: What each call took: JSON, one ``CallFact`` per call.
CALLS = "uniroute-calls"
#: What a scorer stands as among them; no LLM has that name.
SCORER = "scorer"
#: What becomes of a prompt that no LLM answers: ``reply`` (an error reply), ``dead-letter`` or ``both``.
ON_FAILURE = "uniroute-on-failure"
ON_FAILURES = ("reply", "dead-letter", "both")
#: How sure an LLM must be for its answer to be taken, else the next of the fallbacks is asked: JSON.
CASCADE = "uniroute-cascade"
#: On what a cascade passed on: the answer that was not sure enough, given where nobody has another: JSON.
HELD_ANSWER = "uniroute-held-answer"
#: On a reply of a cascade: the chance that the answer is right, as calibrated.
CHANCE = "uniroute-chance"
#: Seconds for which the answer may be kept and given again to equal prompts of the tenant.
CACHE_SECONDS = "uniroute-cache-seconds"
#: On a reply: ``hit`` where it was kept, ``shared`` where an equal prompt was being answered.
CACHE = "uniroute-cache"
VERSIONS = "uniroute-versions"
TRACEPARENT = "traceparent"

_MAX_HEADER_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as consumed: bytes, and where they stood."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def id_bytes(self) -> bytes:
        """The id that its sender gave it: the key, else ``ce_id``; empty where there is neither."""
        return self.key or self.header("ce_id") or b""

    def header(self, name: str) -> bytes | None:
        """Give the last value of a header, as Kafka's own tools do; ``None`` where it is absent."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None

    def text_header(self, name: str) -> str | None:
        """Give a header as text; ``PoisonError`` (``bad_header``) where it is no UTF-8 or over 8 KiB."""
        raw = self.header(name)
        if raw is None:
            return None
        if len(raw) > _MAX_HEADER_BYTES:
            raise PoisonError(
                "bad_header", f"header {name} has {len(raw)} bytes, at most {_MAX_HEADER_BYTES} fit"
            )
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise PoisonError("bad_header", f"header {name} is not UTF-8") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


_NULL = msgspec.Raw(b"null")


class ContentPart(msgspec.Struct):
    """One part of a message's content; parts other than text are passed through unread."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct):
    """One turn of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def text(self) -> str:
        """The text of the turn, its parts joined by line breaks."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


class ResponseFormat(msgspec.Struct):
    """The shape that the answer must have."""

    type: str


class ChatRequest(msgspec.Struct):
    """What the router reads of an OpenAI chat.completions body; every other field passes through unread."""

    model: str
    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: list[msgspec.Raw] | None = None
    response_format: msgspec.Raw = _NULL

    @property
    def prompt_text(self) -> str:
        """What is embedded: the last turn of the user, or the whole conversation where the user has none."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return "\n".join(message.text for message in self.messages)

    @property
    def billed_bytes(self) -> int:
        """Bytes of what an LLM bills: the turns' text, tools and their calls, the answer's schema."""
        calls = [call for turn in self.messages for call in turn.tool_calls or ()]
        schema = [] if self.response_format == _NULL else [self.response_format]
        texts = sum(len(turn.text.encode()) for turn in self.messages)
        return texts + sum(len(bytes(part)) for part in [*calls, *(self.tools or ()), *schema])

    @property
    def capabilities(self) -> frozenset[str]:
        """What an LLM must declare to take this body: ``tools``, ``vision``, ``json``."""
        parts = [part for turn in self.messages if isinstance(turn.content, list) for part in turn.content]
        asked = {
            "tools": bool(self.tools),
            "vision": any(part.type == "image_url" for part in parts),
            "json": self._answer_type.startswith("json"),
        }
        return frozenset(name for name, needed in asked.items() if needed)

    @property
    def _answer_type(self) -> str:
        try:
            answer = msgspec.json.decode(self.response_format, type=ResponseFormat | None)
        except msgspec.ValidationError as error:
            raise PoisonError("invalid_body", f"response_format has the wrong shape: {error}") from error
        return "" if answer is None else answer.type


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision was made from."""

    map: str
    rates: str
    prices: str
    policy: str
    #: Of what is known of the LLMs beside their prices; empty where it was not counted yet.
    llms: str = ""
    #: Of the models of lengths and seconds; empty where there were none.
    lengths: str = ""


class CandidateRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One LLM as it stood in a decision."""

    llm: str
    error: float
    cost_usd: float
    #: Tokens that an answer of it was expected to have.
    output_tokens: float
    #: The limit that removed it; absent where it was allowed.
    removed_by: str | None = None


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy that spends a budget knew when it chose."""

    #: Lambda in force.
    error_per_usd: float
    #: USD that all prompts of the batch may cost together with ``spent_usd``: an LLM that would come to more
    #: was not offered.
    remaining_usd: float
    #: USD that the prompts of the batch before this one were expected to cost.
    spent_usd: float = 0.0
    #: Whether ``remaining_usd`` is held against what a call hardly exceeds, not what it is expected to cost.
    by_ceiling: bool = False


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The value on the decisions topic: what an offline replay needs, in full precision."""

    prompt_id: str
    decision_id: str
    decided_at: datetime
    llm: str
    policy: str
    policy_body: dict[str, Any]
    propensity: float
    #: The uniform number the policy drew; ``None`` where it drew none.
    draw: float | None
    cells: tuple[int, ...]
    #: Little-endian float32, base64 in JSON.
    weights: bytes
    input_tokens: float
    #: The limits that held, those that were set.
    limits: dict[str, Any]
    candidates: tuple[CandidateRecord, ...]
    versions: Versions
    pace: Pace | None = None
    #: Who pays.
    tenant: str = ""
    #: USD of its budget that were reserved; 0 where it has none.
    reserved_usd: float = 0.0
    #: Why it is not what the policy would have chosen; empty where it is.
    degraded: str = ""
    #: LLMs that were on trial, by name: the share of prompts that each was offered to.
    canaries: dict[str, float] = {}
    #: Of the prompt from the nearest centroid of the map's finest resolution; ``None`` where it was not kept.
    distance: float | None = None


class FeedbackEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value on the feedback topic: of a decision, by its id, or of any answer, by prompt and LLM."""

    #: The sender's own id of this piece of feedback: sent twice, it counts once.
    feedback_id: str
    decision_id: str = ""
    #: Quality in 0..1: 1 is right.
    score: float
    #: ``human``, ``judge``, ``checker`` or ``implicit``, or one of these with a name: ``judge:NAME``.
    source: str = "human"
    #: Without ``decision_id``: what was asked, and whom.
    prompt: str = ""
    llm: str = ""
    #: On whose behalf it is given.
    tenant: str = ""
    #: Whether it replaces what the same source said of the same decision.
    correction: bool = False

    def check(self) -> None:
        """Raise ``PoisonError`` of class ``bad_feedback`` naming the field that is out of range."""
        if not 0.0 <= self.score <= 1.0:  # NaN fails this too
            raise PoisonError("bad_feedback", f"score is {self.score}: give a number from 0 to 1")
        for name in ("feedback_id", "source"):
            value: str = getattr(self, name)
            if not value or len(value.encode()) > MAX_NAME_BYTES:
                raise PoisonError("bad_feedback", f"{name} must have 1 to {MAX_NAME_BYTES} bytes")
        if len(self.tenant.encode()) > MAX_NAME_BYTES:
            raise PoisonError("bad_feedback", f"tenant must have at most {MAX_NAME_BYTES} bytes")
        if self.decision_id and (self.prompt or self.llm):
            raise PoisonError("bad_feedback", "it names a decision, and prompt or LLM too: give one of them")
        if bool(self.prompt) != bool(self.llm):
            raise PoisonError("bad_feedback", "without a decision id both prompt and llm are needed")
        if self.prompt and self.correction:
            raise PoisonError("bad_feedback", "only what was said of a decision can be corrected")


#: The CloudEvents types of the two kinds of value on the usage topic.
RESERVATION_EVENT, USAGE_EVENT = "uniroute.reservation", "uniroute.usage"


class ReservationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value on the usage topic: what a decision took of budgets, in its own transaction.

    It has the key of the usage that settles it, so that whoever reads both sees it first.
    """

    decision_id: str
    tenant: str
    #: The number of the grant of its tenant's budget that it was taken from; 0 where it took nothing of that.
    grant: int
    reserved_usd: float
    #: Likewise of the policy's budget, for the period that began then, in Unix time.
    policy: str = ""
    policy_period: int = 0
    policy_grant: int = 0
    policy_usd: float = 0.0


class CallFact(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One call to an LLM, as an array in JSON: what came of it, how long it took, what it used."""

    llm: str
    #: ``ok``, or the class of its error.
    outcome: str
    seconds: float
    #: ``None`` where the endpoint did not say.
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    #: Those of ``input_tokens`` that the provider had in its cache.
    cached_tokens: int = 0
    #: Of the price that made ``cost_usd``; 0 where it is not known.
    price_version: int = 0
    #: What it is estimated to have cost, where it may have been billed and the endpoint did not say.
    unsettled_usd: float = 0.0


class LostCalls(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Calls to one LLM that ended with their process, as an array in JSON: how many, and their cost."""

    llm: str
    #: Of lives that ended before they could commit what came of it.
    count: Annotated[int, msgspec.Meta(ge=0)]
    #: Of all of them, as a call of this LLM was estimated when they were told of first.
    usd: Annotated[float, msgspec.Meta(ge=0)]


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value on the usage topic: what answering one dispatch took, in the same transaction as the reply.

    Map version, cells and time of the decision are in its signed id.
    """

    #: Unique to the dispatch that was answered, and the same however often it is handled.
    usage_id: str
    prompt_id: str
    decision_id: str
    llm: str
    #: ``ok``, or the class of the error reply.
    outcome: str
    #: Calls made, of which all that told their usage are in ``cost_usd``.
    attempts: int
    #: From taking the dispatch to its reply, waits between calls included.
    seconds: float
    #: As the prompt named it.
    tenant: str = ""
    lane: str = ""
    #: Of the call that answered; ``None`` where there was none or the endpoint did not say.
    input_tokens: int | None = None
    output_tokens: int | None = None
    #: Those of ``input_tokens`` that the provider had in its cache.
    cached_tokens: int = 0
    #: What the reply's header says; ``None`` where no call told its usage.
    cost_usd: float | None = None
    #: What the router had reserved of the tenant's budget.
    reserved_usd: float = 0.0
    #: ``NAME@VERSION`` of the policy that decided, what that decision expected, and, where the policy spends
    #: a budget, when the period began that it spends from, in Unix time.
    policy: str = ""
    expected_usd: float = 0.0
    policy_period: int = 0
    #: Why the decision is not the one that the policy would have made; empty where it is.
    degraded: str = ""
    #: Of the prices that made ``cost_usd``; 0 where the LLM was not known.
    price_version: int = 0
    #: Tokens of the prompt as the router estimated them; ``None`` where it did not say.
    estimated_tokens: float | None = None
    #: What calls that may have been billed and told no usage are estimated to have cost; beside ``cost_usd``.
    unsettled_usd: float = 0.0
    #: Each call, in order; those of LLMs before a fallback too.
    calls: tuple[CallFact, ...] = ()


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's error object."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a reply that could not be an answer."""

    error: ErrorDetail


_json = msgspec.json.Encoder()


def encode(value: msgspec.Struct) -> bytes:
    """Give a wire value as JSON."""
    return _json.encode(value)


def decode(raw: bytes | None, wire_type: type[Value], *, max_bytes: int) -> Value:
    """Read a wire value.

    Fields that the type does not name must be readable too, because the value may travel on as it is. Raises
    ``PoisonError`` of class ``empty``, ``too_large``, ``not_json`` or ``invalid_body``; the sentence names
    the place in the JSON.
    """
    if not raw:
        raise PoisonError("empty", "the value is empty")
    if len(raw) > max_bytes:
        raise PoisonError("too_large", f"the value has {len(raw)} bytes, at most {max_bytes} are taken")
    try:
        msgspec.json.decode(raw)  # a typed decoder skips other fields unread, bad UTF-8 and 1e999 included
        return msgspec.json.decode(raw, type=wire_type)
    except msgspec.ValidationError as error:
        raise PoisonError("invalid_body", f"the value has the wrong shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PoisonError("not_json", f"the value is not JSON: {error}") from error
    except RecursionError as error:
        raise PoisonError("invalid_body", "the value is nested too deeply to be read") from error


def error_value(error_class: str, sentence: str) -> bytes:
    """Give an error reply's value in OpenAI's shape."""
    kind = "invalid_request_error" if error_class != "internal" else "server_error"
    return encode(ErrorReply(error=ErrorDetail(message=sentence, type=kind, code=error_class)))


def event_headers(*, event_id: str, event_type: str, source: str, now: datetime) -> Headers:
    """Give CloudEvents 1.0 headers in Kafka's binary mode."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", event_type.encode()),
        ("ce_time", now.astimezone(UTC).isoformat().encode()),
        ("content-type", JSON),
    )


def carried(message: Message, names: Iterable[str]) -> Headers:
    """Give those of a message's headers that travel on with it."""
    return tuple((name, value) for name in names if (value := message.header(name)) is not None)


def json_header(message: Message, name: str, wire_type: type[Content]) -> Content | None:
    """Read a header as JSON of a type; ``PoisonError`` of class ``bad_header`` otherwise."""
    raw = message.header(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=wire_type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PoisonError("bad_header", f"header {name} cannot be read") from error


def number_header(message: Message, name: str, *, most: float = sys.float_info.max) -> float | None:
    """Read a header as a number from 0 to ``most``; ``PoisonError`` of class ``bad_header`` otherwise."""
    text = message.text_header(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:  # NaN fails this too
        bound = f" and at most {most}" if most < sys.float_info.max else ""
        raise PoisonError("bad_header", f"header {name} is {text[:40]!r}: give a number of at least 0{bound}")
    return value
