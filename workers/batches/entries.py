"""What stands in the output file and in the error file: OpenAI's shape, with the facts of the decision."""

from typing import Any

import msgspec

from workers import messages
from workers.errors import PoisonError
from workers.messages import Message

_FACTS = (
    ("llm", messages.LLM),
    ("decision_id", messages.DECISION_ID),
    ("policy", messages.POLICY),
)
_NUMBERS = (
    ("predicted_error", messages.PREDICTED_ERROR),
    ("predicted_cost_usd", messages.PREDICTED_COST_USD),
    ("cost_usd", messages.COST_USD),
    ("unsettled_usd", messages.UNSETTLED_USD),
    ("attempts", messages.ATTEMPT),
    ("repeated_calls", messages.REPEATED_CALLS),
)
_OK, _FAILED = 200, 500
#: Errors of lines that their batch's end came before.
UNDONE = frozenset({"batch_expired", "batch_cancelled", "batch_failed"})


class Response(msgspec.Struct):
    """OpenAI's response object."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class EntryError(msgspec.Struct):
    """OpenAI's error object of a line."""

    code: str
    message: str


class Entry(msgspec.Struct):
    """One line of an output or error file."""

    id: str
    custom_id: str | None
    response: Response | None
    error: EntryError | None
    #: The line's number in the input file.
    line: int
    uniroute: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    """As much of a reply as tells an answer from an error."""

    error: messages.ErrorDetail | None = None


_encoder = msgspec.json.Encoder()


def reply_entry(
    batch_id: str, line: int, custom_id: str, reply: Message, *, ended_as: str | None = None
) -> tuple[bytes, str | None]:
    """Give the entry of a line that was answered, and the class of its error, ``None`` for an answer.

    A line's deadline is its batch's, and lines are called off when a batch ends early: ``ended_as`` names
    the status it ends with then. Such a line bears the error of all that the end came before, of ``UNDONE``.
    """
    value = reply.value or b"null"
    try:
        error = msgspec.json.decode(value, type=_Answer).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = messages.ErrorDetail(
            message="the reply cannot be read", type="server_error", code="bad_reply"
        )
        value = b"null"
    if error is not None and (error.code == "expired" or (ended_as and error.code == "cancelled")):
        undone = undone_error(ended_as or "expired")
        value = messages.error_value(undone.error_class, undone.sentence)
        error = messages.ErrorDetail(message=undone.sentence, type=error.type, code=undone.error_class)
    request_id = reply.text_header("ce_id") or ""
    entry = Entry(
        id=_entry_id(batch_id, line),
        custom_id=custom_id,
        response=Response(_OK if error is None else _FAILED, request_id, msgspec.Raw(value)),
        error=None if error is None else EntryError(error.code, error.message),
        line=line,
        uniroute=_facts(reply),
    )
    return _write(entry), None if error is None else error.code


def undone_error(ended_as: str) -> PoisonError:
    """Give the error of a line that its batch's end came before; ``ended_as`` is the status of that."""
    return PoisonError(f"batch_{ended_as}", f"the batch was {ended_as} before this line was answered")


def refused_entry(batch_id: str, line: int, custom_id: str | None, problem: PoisonError) -> bytes:
    """Give the entry of a line for which nothing was called."""
    return _write(
        Entry(
            id=_entry_id(batch_id, line),
            custom_id=custom_id,
            response=None,
            error=EntryError(problem.error_class, problem.sentence),
            line=line,
        )
    )


def _facts(reply: Message) -> dict[str, Any]:
    facts: dict[str, Any] = {
        name: text for name, header in _FACTS if (text := reply.text_header(header)) is not None
    }
    for name, header in _NUMBERS:
        number = messages.number_header(reply, header)
        if number is not None:
            facts[name] = number
    return facts


def _entry_id(batch_id: str, line: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


def _write(entry: Entry) -> bytes:
    return _encoder.encode(entry) + b"\n"
