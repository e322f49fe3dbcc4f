"""Equal prompts answered once: an exact cache for callers who ask for it, one call in flight per key."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec
import structlog
from sqlalchemy import Engine

from workers.calls.endpoints import Endpoint
from workers.errors import WorkersError
from workers.executor.dispatches import Dispatch
from workers.storage.cached_answers import CachedAnswers
from workers.storage.engine import transaction

#: What does not change an answer.
_IGNORED = frozenset(
    {"model", "stream", "stream_options", "user", "metadata", "store", "service_tier", "safety_identifier"}
)
_FIRST_POLL_S = 0.05
_LONGEST_POLL_S = 1.0

#: ``miss``: called for. ``hit``: kept from before. ``shared``: an equal prompt was being answered.
Source = Literal["miss", "hit", "shared"]

log = structlog.get_logger(__name__)


class AnswerStore(Protocol):
    """Where answers are kept for all executors; blocking. Raises ``WorkersError`` while it is away."""

    def find(self, key: bytes) -> bytes | None:
        """Give an answer that has not expired."""

    def claim(self, key: bytes, *, seconds: float) -> datetime | None:
        """Claim to make an answer; ``None`` while there is one, or another's claim."""

    def keep(self, key: bytes, answer: bytes, *, seconds: float) -> None:
        """Keep the answer that was claimed."""

    def release(self, key: bytes, claim: datetime) -> None:
        """Give up a claim; another's stays."""


class DatabaseStore:
    """The store in Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, key: bytes) -> bytes | None:
        """One query."""
        with transaction(self._engine) as session:
            return CachedAnswers(session).find(key)

    def claim(self, key: bytes, *, seconds: float) -> datetime | None:
        """One statement."""
        with transaction(self._engine) as session:
            return CachedAnswers(session).claim(key, seconds=seconds)

    def keep(self, key: bytes, answer: bytes, *, seconds: float) -> None:
        """Two statements."""
        with transaction(self._engine) as session:
            CachedAnswers(session).keep(key, answer, seconds=seconds)

    def release(self, key: bytes, claim: datetime) -> None:
        """One statement."""
        with transaction(self._engine) as session:
            CachedAnswers(session).release(key, claim)


@dataclass(slots=True)
class _Flight:
    """Equal prompts of this process."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    answer: bytes | None = None


class AnswerCache:
    """Answers equal prompts once, in this process and across processes.

    While the store is away nothing is kept and equal prompts are shared in this process alone: an answer is
    worth more than a saving. A claim is void after ``claim_s``, so that nobody waits for an executor that
    died: where making takes longer than that, another process may make the answer too.
    """

    def __init__(self, store: AnswerStore, *, claim_s: float) -> None:
        self._store = store
        self._claim_s = claim_s
        self._flights: dict[bytes, _Flight] = {}

    async def answer(
        self, key: bytes, *, keep_s: float, make: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, Source]:
        """Give the answer of a key, made by ``make`` where nobody has made or is making it.

        What ``make`` raises comes out, and the next in line makes it itself.
        """
        flight = self._flights.setdefault(key, _Flight())
        flight.users += 1
        try:
            waited = flight.lock.locked()
            async with flight.lock:
                if flight.answer is not None:
                    return flight.answer, "shared"
                found = await self._find_or_claim(key)
                if isinstance(found, bytes):
                    flight.answer = found
                    return found, "shared" if waited else "hit"
                flight.answer = await self._make(key, found, keep_s, make)
                return flight.answer, "miss"
        finally:
            flight.users -= 1
            if not flight.users:
                del self._flights[key]

    async def _find_or_claim(self, key: bytes) -> bytes | datetime | None:
        """Give the answer, once whoever is making it has, or our claim to make it.

        ``None`` where it is ours to make without a claim, because the store is away.
        """
        poll_s = _FIRST_POLL_S
        while True:
            try:
                found = await asyncio.to_thread(self._store.find, key)
                if found is not None:
                    return found
                claim = await self._claim(key)
                if claim is not None:
                    return claim
            except WorkersError as error:
                log.warning("cache_is_away", problem=str(error))
                return None
            await asyncio.sleep(poll_s)
            poll_s = min(_LONGEST_POLL_S, 2 * poll_s)

    async def _claim(self, key: bytes) -> datetime | None:
        """Claim; where we are cancelled meanwhile, give up what the thread claims all the same."""
        claiming = asyncio.ensure_future(asyncio.to_thread(self._store.claim, key, seconds=self._claim_s))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(WorkersError):  # nothing was claimed
                await self._give_up(key, await claiming)
            raise

    async def _make(
        self, key: bytes, claim: datetime | None, keep_s: float, make: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        try:
            answer = await make()
        except BaseException:
            await asyncio.shield(self._give_up(key, claim))
            raise
        if claim is not None:
            await self._try_to(self._store.keep, key, answer, seconds=keep_s)
        return answer

    async def _give_up(self, key: bytes, claim: datetime | None) -> None:
        if claim is not None:
            await self._try_to(self._store.release, key, claim)

    async def _try_to(self, change: Callable[..., None], *arguments: object, **options: object) -> None:
        try:
            await asyncio.to_thread(change, *arguments, **options)
        except WorkersError as error:
            log.warning("cache_is_away", problem=str(error))


def cache_key(dispatch: Dispatch, endpoint: Endpoint) -> bytes:
    """Give the key of a prompt: its tenant, its LLM and where that is served, and its body in normal form.

    The order of fields and white space do not matter, nor what does not change an answer.
    """
    body: dict[str, Any] = {name: value for name, value in dispatch.body.items() if name not in _IGNORED}
    # How sure the LLM was is asked of it by some prompts and not by others.
    told = dispatch.cascade is not None and dispatch.cascade.scorer is None
    identity = (dispatch.tenant, dispatch.llm, endpoint.provider_model, endpoint.base_url, told, body)
    return hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).digest()
