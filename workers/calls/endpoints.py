"""One call to one LLM over any OpenAI-compatible endpoint, by the openai client with its own retries off."""

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import openai

from workers.calls.errors import CallError, classify
from workers.errors import UsageError

_MAX_ANSWER_BYTES = 3 * 1024 * 1024


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the endpoint counted them."""

    prompt_tokens: int
    completion_tokens: int


class _Completion(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an LLM answers."""

    llm: str
    base_url: str
    #: The name the endpoint knows the LLM by.
    provider_model: str
    #: Where the key is: ``env:NAME``, or empty for an endpoint that asks for none.
    api_key_ref: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A valid chat completion: its bytes as they came, and its usage where the endpoint told it."""

    value: bytes
    usage: Usage | None


class EndpointCaller:
    """Keeps one connection pool per endpoint; all calls of a process share it.

    ``call`` raises ``CallError`` and nothing else for whatever an endpoint does.
    """

    def __init__(self, *, timeout_s: float, max_connections: int) -> None:
        self._timeout_s = timeout_s
        self._limits = httpx2.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        )
        self._clients: dict[tuple[str, str], openai.AsyncOpenAI] = {}

    async def call(
        self, endpoint: Endpoint, body: dict[str, Any], *, prompt_id: str, timeout_s: float
    ) -> Answer:
        """Send ``body`` to the endpoint, its ``model`` replaced and streaming off.

        A queue has no use for a stream: the whole answer is one reply.
        """
        request = {**body, "model": endpoint.provider_model, "stream": False}
        request.pop("stream_options", None)
        try:
            response = await self._client(endpoint).post(
                "/chat/completions",
                body=request,
                cast_to=httpx2.Response,
                options={
                    "headers": {"x-uniroute-prompt-id": quote(prompt_id)},
                    "timeout": min(self._timeout_s, timeout_s),
                },
            )
            return _read_answer(response.content)
        except openai.OpenAIError as error:
            raise classify(error) from error
        except httpx2.HTTPError as error:
            raise CallError("connection", f"the connection broke off: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()

    def _client(self, endpoint: Endpoint) -> openai.AsyncOpenAI:
        key = (endpoint.base_url, endpoint.api_key_ref)
        if key not in self._clients:
            self._clients[key] = openai.AsyncOpenAI(
                base_url=endpoint.base_url,
                api_key=resolve_key(endpoint.api_key_ref),
                max_retries=0,
                timeout=self._timeout_s,
                http_client=openai.DefaultAsyncHttpxClient(limits=self._limits),
            )
        return self._clients[key]


def resolve_key(reference: str) -> str:
    """Give the key that ``env:NAME`` refers to; an empty reference means that the endpoint asks for none.

    Raises ``CallError`` of class ``auth`` where the variable is not set: the key never travels otherwise.
    """
    if not reference:
        return "none"
    kind, _, name = reference.partition(":")
    if kind != "env":
        raise UsageError(f"a key is referred to as env:NAME, not as {kind}:...")
    if name not in os.environ:
        raise CallError("auth", f"the environment variable {name} is not set where the executor runs")
    return os.environ[name]


def _read_answer(content: bytes) -> Answer:
    if len(content) > _MAX_ANSWER_BYTES:
        raise CallError(
            "bad_response", f"the answer has {len(content)} bytes, at most {_MAX_ANSWER_BYTES} fit"
        )
    try:
        completion = msgspec.json.decode(content, type=_Completion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CallError("bad_response", f"the answer is no chat completion: {error}") from error
    if not completion.choices:
        raise CallError("bad_response", "the answer has no choices")
    return Answer(value=content, usage=completion.usage)
