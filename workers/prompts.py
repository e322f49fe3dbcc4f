"""From a message on the ingest topic to a prompt: what is asked, by whom, within which limits."""

from dataclasses import dataclass
from datetime import datetime

from routing.requests import Limits
from workers import messages
from workers.decision_ids import MAX_NAME_BYTES
from workers.errors import PoisonError
from workers.messages import ChatRequest, Message
from workers.settings import Settings
from workers.topics import is_legal_topic

_AUTO = "auto"
#: More than any LLM writes; a number of any length is still a number in JSON.
_MOST_OUTPUT_TOKENS = 2**31 - 1
#: English text has about four bytes to a token in every current tokenizer.
_BYTES_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt that can be routed."""

    message: Message
    prompt_id: str
    request: ChatRequest
    reply_to: str
    limits: Limits
    #: Name of the policy asked for; ``None`` for the default.
    policy: str | None
    deadline: datetime | None
    #: Whose budget pays; empty where nobody was named.
    tenant: str = ""

    @property
    def input_tokens(self) -> float:
        """Tokens of the prompt, estimated before any LLM has counted them."""
        return _estimate_tokens(self.request.billed_bytes)


def count_tokens(text: str) -> float:
    """Give the tokens of a prompt that is this text alone, as the router estimates them."""
    return _estimate_tokens(len(text.encode()))


def _estimate_tokens(billed_bytes: int) -> float:
    return max(1.0, billed_bytes / _BYTES_PER_TOKEN)


def read_prompt(message: Message, settings: Settings) -> Prompt:
    """Decode a message of the ingest topic.

    Raises ``PoisonError`` of class ``bad_key``, ``no_reply_topic``, ``illegal_reply_topic``, ``bad_header``,
    ``empty``, ``too_large``, ``not_json`` or ``invalid_body``. Whether the LLMs and the policy it names exist
    is the router's to say.
    """
    prompt_id = _read_prompt_id(message)
    reply_to = read_reply_topic(message, settings)
    request = messages.decode(message.value, ChatRequest, max_bytes=settings.max_prompt_bytes)
    if not request.messages:
        raise PoisonError("invalid_body", "messages is empty: give at least one turn")
    if request.n not in {None, 1}:
        raise PoisonError(
            "invalid_body", f"n is {request.n}: a prompt has one reply; send it {request.n} times"
        )
    policy, pinned = _read_model(request.model)
    candidates = _read_names(message, messages.CANDIDATES, fault="names no LLM: leave it out for any")
    if pinned is not None:
        candidates = [pinned]
    return Prompt(
        message=message,
        prompt_id=prompt_id,
        request=request,
        reply_to=reply_to,
        limits=Limits(
            max_cost_usd=messages.number_header(message, messages.MAX_COST_USD),
            max_error=messages.number_header(message, messages.MAX_ERROR, most=1.0),
            candidates=frozenset(candidates) or None,
            excluded=frozenset(_read_names(message, messages.EXCLUDED)),
            capabilities=request.capabilities | frozenset(_read_names(message, messages.CAPABILITIES)),
            languages=frozenset(_read_names(message, messages.LANGUAGES)),
            max_output_tokens=_read_max_output(request),
        ),
        policy=message.text_header(messages.POLICY) or policy,
        deadline=read_deadline(message),
        tenant=message.text_header(messages.TENANT) or "",
    )


def read_reply_topic(message: Message, settings: Settings) -> str:
    """Give the caller's reply topic.

    Raises ``PoisonError`` of class ``no_reply_topic`` or ``illegal_reply_topic``.
    """
    try:
        topic = message.text_header(messages.REPLY_TO)
    except PoisonError as error:
        raise PoisonError("illegal_reply_topic", error.sentence) from error
    if not topic:
        raise PoisonError("no_reply_topic", f"header {messages.REPLY_TO} is missing: name your reply topic")
    if not (topic.startswith(settings.reply_prefix) and is_legal_topic(topic)):
        raise PoisonError(
            "illegal_reply_topic",
            f"header {messages.REPLY_TO} is {topic[:80]!r}: reply topics begin with {settings.reply_prefix}",
        )
    return topic


def _read_max_output(request: ChatRequest) -> int | None:
    most = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    if most is not None and not 1 <= most <= _MOST_OUTPUT_TOKENS:
        raise PoisonError("invalid_body", f"max_completion_tokens must be 1 to {_MOST_OUTPUT_TOKENS}")
    return most


def _read_prompt_id(message: Message) -> str:
    raw = message.id_bytes
    try:
        prompt_id = raw.decode()
    except UnicodeDecodeError as error:
        raise PoisonError("bad_key", "the key is not UTF-8: give the prompt's id as the key") from error
    if not 0 < len(raw) <= MAX_NAME_BYTES:
        raise PoisonError(
            "bad_key", f"the key has {len(raw)} bytes: give a prompt id of 1 to {MAX_NAME_BYTES}"
        )
    return prompt_id


def _read_model(model: str) -> tuple[str | None, str | None]:
    """Give the policy and the one LLM that a body's ``model`` asks for."""
    if model == _AUTO:
        return None, None
    if model.startswith(f"{_AUTO}/"):
        return model.removeprefix(f"{_AUTO}/"), None
    return None, model


def _read_names(message: Message, header: str, *, fault: str = "names nothing: leave it out") -> list[str]:
    """Give the names in a header, which commas separate; none where it is absent."""
    text = message.text_header(header)
    names = [name for part in (text or "").split(",") if (name := part.strip())]
    if text and not names:
        raise PoisonError("bad_header", f"header {header} {fault}")
    return names


def read_deadline(message: Message) -> datetime | None:
    """Give the time after which no answer is wanted; ``PoisonError`` (``bad_header``) if it is none."""
    text = message.text_header(messages.DEADLINE)
    if text is None:
        return None
    try:
        deadline = datetime.fromisoformat(text)
    except ValueError:
        deadline = None
    if deadline is None or deadline.tzinfo is None:
        raise PoisonError(
            "bad_header",
            f"header {messages.DEADLINE} is {text[:40]!r}: give ISO 8601 with a zone, 2030-01-31T12:00:00Z",
        )
    return deadline
