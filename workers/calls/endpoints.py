"""One call to one LLM over any OpenAI-compatible endpoint, by the openai client with its own retries off."""

import asyncio
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx2
import msgspec
import openai

from workers.calls.bodies import AnswerTooLargeError, UnknownEncodingError, bound_body
from workers.calls.errors import CallError, classify
from workers.calls.keys import resolve_key
from workers.calls.pressure import read_pressure
from workers.calls.sending import leaving, tell_of_sending
from workers.calls.usage import Usage

_SHORTEST_SECRET = 8
_COVERED = b"***"


class _Said(msgspec.Struct):
    """A choice's message; what it holds is the caller's to read."""


class _Choice(msgspec.Struct):
    message: _Said


class _Completion(msgspec.Struct):
    choices: list[_Choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an LLM answers."""

    llm: str
    base_url: str
    #: The name the endpoint knows the LLM by.
    provider_model: str
    #: Where the key is: ``env:NAME``, ``file:/PATH``, or empty for an endpoint that asks for none.
    api_key_ref: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A valid chat completion: its bytes as they came, and its usage where the endpoint told it readably."""

    value: bytes
    usage: Usage | None
    #: Seconds for which the endpoint says that nothing is left of a limit.
    pressure_s: float = 0.0


class EndpointCaller:
    """Keeps one connection pool per endpoint; all calls of a process share it.

    ``call`` raises ``CallError`` and nothing else for whatever an endpoint does, or a body or a key holds. No
    sentence of it quotes the key, and in an answer that does it is covered by asterisks: answers are held,
    cached, kept in dead letters and sent to callers.
    """

    def __init__(self, *, timeout_s: float, max_connections: int) -> None:
        self._timeout_s = timeout_s
        self._limits = httpx2.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        )
        self._clients: dict[tuple[str, str], openai.AsyncOpenAI] = {}

    async def call(
        self,
        endpoint: Endpoint,
        body: dict[str, Any],
        *,
        prompt_id: str,
        timeout_s: float,
        attempt: int = 1,
        on_send: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Send ``body`` to the endpoint, its ``model`` replaced and streaming off.

        A queue has no use for a stream: the whole answer is one reply. ``timeout_s`` is for all of it: an
        endpoint that sends a byte now and then does not outlast it. ``attempt`` counts the calls made for the
        prompt, from 1, and tells the endpoint which of them are our own repetitions. ``on_send`` is called
        when there is a connection, right before the first byte goes to it: no turn of the loop lies between.
        """
        content = _write_request(body, endpoint)
        client = self._client(endpoint)
        leaving.set(on_send)
        try:
            async with asyncio.timeout(min(self._timeout_s, timeout_s)):
                response = await client.post(
                    "/chat/completions",
                    content=content,
                    cast_to=httpx2.Response,
                    options={
                        "headers": {
                            "content-type": "application/json",
                            "accept-encoding": "identity",
                            "x-uniroute-prompt-id": quote(prompt_id),
                            "x-uniroute-attempt": str(attempt),
                        }
                    },
                )
            content = _cover(response.content, client.api_key) if endpoint.api_key_ref else response.content
            return _read_answer(content, pressure_s=read_pressure(response.headers))
        except CallError:
            raise
        except AnswerTooLargeError as error:
            raise CallError("bad_response", str(error), usage=error.usage, paid=True) from error
        except (UnknownEncodingError, zlib.error) as error:
            raise CallError("bad_response", f"the answer cannot be unpacked: {error}"[:300]) from error
        except TimeoutError as error:
            raise CallError("timeout", "the endpoint did not answer in time") from error
        except openai.OpenAIError as error:
            raise classify(error, secret=client.api_key if endpoint.api_key_ref else "") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError) as error:
            sentence = f"the connection broke off: {type(error).__name__}"
            raise CallError("connection", sentence, received=True) from error
        except Exception as error:  # the libraries' errors at hostile answers are no closed set
            raise CallError("bad_response", f"the answer cannot be read: {type(error).__name__}") from error

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
                # A quarter of the CPU of the default one, whose pool looks at every connection for each call.
                http_client=tell_of_sending(
                    openai.DefaultAioHttpClient(
                        limits=self._limits,
                        event_hooks={"response": [bound_body]},
                        follow_redirects=False,  # nobody else is shown a prompt or a key
                        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                    )
                ),
            )
        return self._clients[key]


def _write_request(body: dict[str, Any], endpoint: Endpoint) -> bytes:
    request = {**body, "model": endpoint.provider_model, "stream": False}
    request.pop("stream_options", None)
    try:
        return msgspec.json.encode(request)
    except (ValueError, RecursionError) as error:
        raise CallError("bad_request", f"the body cannot be sent on: {type(error).__name__}") from error


def _cover(content: bytes, key: str) -> bytes:
    """Cover the key in an answer; one too short to be a secret may be any word of it."""
    if len(key) < _SHORTEST_SECRET:
        return content
    return _quoted(key).sub(_COVERED, content)


@lru_cache(maxsize=256)
def _quoted(key: str) -> re.Pattern[bytes]:
    """Match a key as it is, and in any way that a text of JSON may write it."""
    characters = []
    for character in key:
        units = character.encode("utf-16-be", "surrogatepass").hex()
        escaped = "".join(rf"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
        short = msgspec.json.encode(character)[1:-1]
        forms = {re.escape(character.encode()), re.escape(short), b"(?i:%b)" % escaped.encode()}
        if character == "/":
            forms.add(rb"\\/")
        characters.append(b"(?:%b)" % b"|".join(sorted(forms)))
    return re.compile(b"".join(characters))


def _read_answer(content: bytes, *, pressure_s: float) -> Answer:
    said: object = None
    try:
        said = msgspec.json.decode(content)  # a typed decoder skips other fields unread, bad UTF-8 included
        completion = msgspec.convert(said, type=_Completion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        sentence = f"the answer is no chat completion: {error}"
        raise CallError("bad_response", sentence, usage=_read_usage(said)) from error
    usage = _read_usage(said)
    if not completion.choices:
        raise CallError("bad_response", "the answer has no choices", usage=usage)
    return Answer(value=content, usage=usage, pressure_s=pressure_s)


def _read_usage(said: object) -> Usage | None:
    """Give the counts; ``None`` where they are absent or odd, for the answer may be one all the same."""
    try:
        return msgspec.convert(said["usage"], type=Usage | None) if isinstance(said, dict) else None
    except (KeyError, msgspec.MsgspecError):
        return None
