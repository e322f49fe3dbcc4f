"""The registry of LLMs: what the core knows of each, and where it is served."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError, UnknownLLMError, UnknownPriceError
from routing.llms import LLM
from workers.errors import UsageError
from workers.storage.cell_counts import CellCounts
from workers.storage.feedback import Feedback
from workers.storage.prices import Prices, PriceVersion
from workers.storage.routing_state import RoutingState
from workers.storage.tables import API_KEY_REF_PATTERN, LLM_STATES, MAX_NAME_BYTES, LLMRow

State = Literal["probe", "shadow", "canary", "active", "draining", "retired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """An LLM with the endpoint that serves it.

    ``InvalidInputError`` names a field that cannot be used; it never quotes ``api_key_ref``, in case a key
    was given in its place.
    """

    llm: LLM
    #: OpenAI-compatible, e.g. ``https://api.openai.com/v1``; without user and password.
    base_url: str
    #: The model's name there.
    provider_model: str
    #: ``env:NAME``, the environment variable that holds the key; empty where the endpoint asks for none.
    api_key_ref: str = ""

    def __post_init__(self) -> None:
        if len(self.llm.name.encode()) > MAX_NAME_BYTES:
            raise InvalidInputError("name", f"has more than {MAX_NAME_BYTES} bytes")
        if not re.fullmatch(API_KEY_REF_PATTERN, self.api_key_ref):
            raise InvalidInputError(
                "api_key_ref",
                "must read env:NAME, the environment variable with the key; the key is never kept",
            )
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInputError("base_url", "must begin with http:// or https:// and name a host")
        if parts.username or parts.password:
            raise InvalidInputError("base_url", "must not hold a user or a password: use api_key_ref")
        if not self.provider_model:
            raise InvalidInputError("provider_model", "must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredLLM:
    """An LLM as it stands in the registry, with its price in force."""

    registration: Registration
    state: State
    price_version: int
    registered_at: datetime
    retired_at: datetime | None

    @property
    def llm(self) -> LLM:
        """What the core knows of it."""
        return self.registration.llm


class LLMs:
    """LLMs by name. A retired LLM keeps its row: its prices and decisions still refer to it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(self, registration: Registration, *, state: State = "active") -> None:
        """Add an LLM with its first price, or one under the name of a retired one.

        It starts without evidence: counts of a retired namesake, perhaps another model, are dropped, and its
        feedback stays as ``replaced``. ``UsageError`` where a living LLM has the name.
        """
        RoutingState(self._session).bump()
        name = registration.llm.name
        row = self._session.get(LLMRow, name)
        if row is not None and row.state != "retired":
            raise UsageError(
                f"an LLM named {name!r} is registered already: remove it first, or choose another name"
            )
        if row is None:
            row = LLMRow(name=name)
            self._session.add(row)
        else:
            Feedback(self._session).replace(name)
            CellCounts(self._session).forget(name)
        _write(row, registration)
        row.state, row.retired_at = state, None
        self._session.flush()
        Prices(self._session).set(name, registration.llm.price)

    def set_state(self, name: str, state: State) -> None:
        """Move an LLM along its life cycle; ``UnknownLLMError`` names those that are registered."""
        if state not in LLM_STATES:
            raise InvalidInputError("state", f"{state!r} is none of {', '.join(LLM_STATES)}")
        RoutingState(self._session).bump()
        row = self._session.get(LLMRow, name)
        if row is None:
            raise UnknownLLMError(name, self.names())
        row.retired_at = (row.retired_at or self._now()) if state == "retired" else None
        row.state = state
        self._session.flush()

    def retire(self, name: str) -> None:
        """Take an LLM out of routing, now or already; ``UnknownLLMError`` for a name never registered."""
        self.set_state(name, "retired")

    def list(self, *, states: Collection[str] = LLM_STATES) -> list[RegisteredLLM]:
        """Give the LLMs in any of ``states``, in ascending order of name (by code point, as routing sorts).

        ``UnknownPriceError`` if one has no price.
        """
        rows = self._session.scalars(select(LLMRow).where(LLMRow.state.in_(states)))
        prices = Prices(self._session).current()
        return sorted((_read(row, prices) for row in rows), key=lambda found: found.llm.name)

    def names(self) -> tuple[str, ...]:
        """Give every name ever registered, retired ones too, in ascending order."""
        return tuple(sorted(self._session.scalars(select(LLMRow.name))))

    def get(self, name: str) -> RegisteredLLM | None:
        """Give one LLM; ``None`` for a name never registered."""
        row = self._session.get(LLMRow, name)
        return None if row is None else _read(row, Prices(self._session).current())

    def _now(self) -> datetime:
        now: datetime = self._session.execute(select(func.now())).scalar_one()
        return now


def _write(row: LLMRow, registration: Registration) -> None:
    llm = registration.llm
    row.base_url = registration.base_url
    row.provider_model = registration.provider_model
    row.api_key_ref = registration.api_key_ref
    row.context_length = llm.context_length
    row.capabilities = sorted(llm.capabilities)
    row.simulated = llm.simulated
    row.expected_output_tokens = llm.expected_output_tokens


def _read(row: LLMRow, prices: dict[str, PriceVersion]) -> RegisteredLLM:
    price = prices.get(row.name)
    if price is None:
        raise UnknownPriceError(row.name, "price")
    llm = LLM(
        name=row.name,
        price=price.price,
        context_length=row.context_length,
        capabilities=frozenset(row.capabilities),
        simulated=row.simulated,
        expected_output_tokens=row.expected_output_tokens,
    )
    registration = Registration(
        llm=llm, base_url=row.base_url, provider_model=row.provider_model, api_key_ref=row.api_key_ref
    )
    return RegisteredLLM(
        registration=registration,
        state=row.state,  # type: ignore[arg-type]  # a CHECK keeps it one of the six
        price_version=price.version,
        registered_at=row.registered_at,
        retired_at=row.retired_at,
    )
