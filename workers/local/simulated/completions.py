"""OpenAI's chat.completions on the wire: requests as they are read, responses and errors as written."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from routing.llms import LLM
from workers.local.simulated.answers import Outcome

_CHARACTERS_PER_TOKEN = 4
_CHUNK_CHARACTERS = 64


class BadRequestError(Exception):
    """A request that OpenAI would answer with an error."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What the server needs of a request's body."""

    model: str
    #: Text of the last user message; of the last message where no user speaks.
    text: str
    #: ``metadata.prompt_id`` and ``user``, where given.
    named_ids: tuple[str, ...]
    max_tokens: int | None
    stream: bool
    stream_usage: bool


def read_request(body: bytes, *, models: Collection[str]) -> ChatRequest:
    """Read a request body; raises ``BadRequestError`` for what OpenAI refuses too."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError("The body is not valid JSON.") from None
    if not isinstance(content, dict):
        raise BadRequestError("The body must be a JSON object.")
    model, messages = content.get("model"), content.get("messages")
    if not isinstance(model, str) or not model:
        raise BadRequestError("You must provide a model parameter.", param="model")
    if model not in models:
        raise BadRequestError(f"The model `{model}` does not exist.", status=404, code="model_not_found")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequestError("messages must be a non-empty array of objects.", param="messages")
    limit = content.get("max_completion_tokens", content.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise BadRequestError("max_tokens must be an integer of at least 1.", param="max_tokens")
    choices = content.get("n")
    if choices is not None and choices != 1:
        raise BadRequestError("This server gives one choice: n must be 1.", param="n")
    metadata, options = content.get("metadata"), content.get("stream_options")
    named = (metadata.get("prompt_id") if isinstance(metadata, dict) else None, content.get("user"))
    return ChatRequest(
        model=model,
        text=_last_text(messages),
        named_ids=tuple(name for name in named if isinstance(name, str) and name),
        max_tokens=limit,
        stream=content.get("stream") is True,
        stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _last_text(messages: Sequence[dict[str, Any]]) -> str:
    spoken = [message for message in messages if message.get("role") == "user"] or list(messages)
    content = spoken[-1].get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def cut_outcome(outcome: Outcome, max_tokens: int | None) -> tuple[Outcome, str]:
    """Cut an answer to the caller's limit; gives it with OpenAI's ``finish_reason``."""
    if max_tokens is None or outcome.output_tokens <= max_tokens:
        return outcome, "stop"
    text = outcome.text[: max_tokens * _CHARACTERS_PER_TOKEN]
    return replace(outcome, text=text, output_tokens=max_tokens, score=0.0), "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer with what its envelope says."""

    completion_id: str
    #: Unix time in seconds.
    created: int
    llm: str
    outcome: Outcome
    finish_reason: str
    #: False leaves the token counts out, which a sound server never does.
    with_usage: bool = True

    @property
    def _usage(self) -> dict[str, int]:
        prompt, completion = self.outcome.input_tokens, self.outcome.output_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def as_json(self) -> bytes:
        """Write a ``chat.completion`` object."""
        message = {"role": "assistant", "content": self.outcome.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        body = self._envelope("chat.completion") | {"choices": [choice]}
        if self.with_usage:
            body["usage"] = self._usage
        return json.dumps(body).encode()

    def as_events(self, *, usage: bool) -> bytes:
        """Write ``chat.completion.chunk`` objects as server-sent events, with a last one for ``usage``."""
        text = self.outcome.text
        pieces = [text[i : i + _CHUNK_CHARACTERS] for i in range(0, len(text), _CHUNK_CHARACTERS)]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in pieces]
        chunks = [self._chunk(delta, None) for delta in deltas] + [self._chunk({}, self.finish_reason)]
        if usage and self.with_usage:
            chunks.append(self._envelope("chat.completion.chunk") | {"choices": [], "usage": self._usage})
        return (
            b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
            + b"data: [DONE]\n\n"
        )

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.llm,
            "system_fingerprint": "simulated",
        }


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """Write an error in OpenAI's shape."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def models_body(llms: Sequence[LLM], *, created: int) -> bytes:
    """Write ``GET /v1/models``."""
    data = [{"id": llm.name, "object": "model", "created": created, "owned_by": "simulated"} for llm in llms]
    return json.dumps({"object": "list", "data": data}).encode()
