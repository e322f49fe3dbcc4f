"""What can go wrong with a call to an LLM, in nine classes."""

import re

import aiohttp
import httpx2
import openai

from workers.calls.pressure import read_wait
from workers.calls.usage import Usage
from workers.errors import WorkersError

#: Classes after which the same request may yet succeed.
RETRYABLE = frozenset({"rate_limit", "timeout", "server", "connection", "bad_response"})

_BY_STATUS = {
    401: "auth",
    402: "auth",
    403: "auth",
    # Nothing is served there, or not that model: no prompt is to blame.
    404: "server",
    405: "server",
    410: "server",
    408: "timeout",
    429: "rate_limit",
    504: "timeout",
}
_BY_CODE = {
    "context_length_exceeded": "context_window",
    "content_filter": "content_policy",
    "content_policy_violation": "content_policy",
    "exceed_context_size_error": "context_window",
}
#: What servers without such codes say: vLLM, TGI, SGLang, Anthropic's and Mistral's adapters.
_TOO_LONG = re.compile(
    r"context (length|window|size)|(prompt|input) is too (long|large)|too many (input )?tokens|"
    r"must have less than \d+ tokens|`inputs` tokens",
    re.IGNORECASE,
)
_CLIENT_ERROR = 400
_SERVER_ERROR = 500


class CallError(WorkersError):
    """A call that gave no answer."""

    def __init__(
        self,
        error_class: str,
        sentence: str,
        *,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        paid: bool = False,
        received: bool = False,
    ) -> None:
        super().__init__(sentence)
        #: ``rate_limit``, ``timeout``, ``server``, ``connection``, ``context_window``, ``content_policy``,
        #: ``auth``, ``bad_request`` or ``bad_response``.
        self.error_class = error_class
        self.sentence = sentence
        #: Seconds that the endpoint asked to wait, if it did.
        self.retry_after_s = retry_after_s
        #: What the call used all the same, where the endpoint said so.
        self.usage = usage
        #: Whether the call was answered, and so billed, whatever it used.
        self.paid = paid or usage is not None
        #: Whether the endpoint may have had the request before the connection broke, and so bill it.
        self.received = received

    @property
    def retryable(self) -> bool:
        """Whether the same request may yet succeed; one that was answered, and billed, is not repeated."""
        return self.error_class in RETRYABLE and not self.paid


def classify(error: openai.OpenAIError, *, secret: str = "") -> CallError:
    """Give the class of an error of the openai client; ``secret`` does not appear in its sentence."""
    if isinstance(error, openai.APITimeoutError) and not _was_disconnected(error):
        return CallError("timeout", "the endpoint did not answer in time")
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error, secret)
    if isinstance(error, openai.APIConnectionError):
        cause = _hide(str(error.__cause__ or error), secret)
        sentence = f"the endpoint could not be reached: {cause[:300]}"
        return CallError("connection", sentence, received=not _was_refused(error))
    return CallError("bad_response", f"the endpoint's answer could not be read: {type(error).__name__}")


def _was_disconnected(error: openai.APITimeoutError) -> bool:
    """Whether a timeout is none: httpx's adapter to aiohttp calls every broken connection so."""
    cause = error.__cause__.__cause__ if error.__cause__ is not None else None
    return isinstance(cause, aiohttp.ClientConnectionError) and not isinstance(cause, TimeoutError)


def _was_refused(error: BaseException) -> bool:
    """Whether there never was a connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, aiohttp.ClientConnectorError | httpx2.ConnectError | httpx2.UnsupportedProtocol):
            return True
        cause = cause.__cause__
    return False


def _classify_status(error: openai.APIStatusError, secret: str) -> CallError:
    status = error.status_code
    error_class = _BY_STATUS.get(status) or _BY_CODE.get(str(error.code)) or _BY_CODE.get(str(error.type))
    if error_class is None and _CLIENT_ERROR <= status < _SERVER_ERROR and _TOO_LONG.search(error.message):
        error_class = "context_window"
    if error_class is None:
        error_class = "server" if status >= _SERVER_ERROR else "bad_request"
        if status < _CLIENT_ERROR:  # a redirect, which is not followed: the address is registered wrongly
            error_class = "bad_response"
    if error_class == "auth":  # the endpoint's own words may quote a part of the key
        return CallError("auth", f"the endpoint answered {status}: check the key the LLM is registered with")
    sentence = f"the endpoint answered {status}: {_hide(error.message, secret)[:300]}"
    return CallError(error_class, sentence, retry_after_s=read_wait(error.response.headers))


def _hide(text: str, secret: str) -> str:
    """Cover a secret that an endpoint echoes, before the text is cut: a part of it would be too much."""
    return text.replace(secret, "***") if secret else text
