"""The registry of LLMs: what the core knows of each, and where it is served."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError, UnknownLLMError, UnknownPriceError
from routing.llms import LLM, Price
from workers.errors import UsageError
from workers.messages import SCORER
from workers.storage.cell_counts import CellCounts
from workers.storage.feedback import Feedback
from workers.storage.lengths import LengthCounts
from workers.storage.llm_journal import LLMJournal, Standing, Step
from workers.storage.prices import Prices, PriceVersion
from workers.storage.routing_state import RoutingState
from workers.storage.tables import API_KEY_REF_PATTERN, LLM_STATES, MAX_NAME_BYTES, LLMRow, LLMVersionRow
from workers.storage.watches import Watches

#: Columns that each version of an LLM keeps.
_FACTS = (
    "base_url",
    "provider_model",
    "api_key_ref",
    "context_length",
    "capabilities",
    "simulated",
    "expected_output_tokens",
    "requests_per_minute",
    "tokens_per_minute",
)
_NO_EVIDENCE: Mapping[str, Any] = MappingProxyType({})
_PLAIN = Standing()
#: Stands in where the price is another's to say.
_ANY_PRICE = Price(input_usd_per_mtok=0.0, output_usd_per_mtok=0.0)

#: LLMs of which error rates are published: those that take traffic, may take it soon, or did.
RATED_STATES = ("shadow", "canary", "active", "draining")

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
    #: ``env:NAME`` or ``file:/PATH``, where the key is; empty where the endpoint asks for none.
    api_key_ref: str = ""
    #: What its provider allows in any minute, over all executors; ``None`` for no limit.
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        if len(self.llm.name.encode()) > MAX_NAME_BYTES:
            raise InvalidInputError("name", f"has more than {MAX_NAME_BYTES} bytes")
        if self.llm.name == SCORER:
            raise InvalidInputError("name", f"must not be {SCORER!r}: so a cascade's scorer is called")
        if not re.fullmatch(API_KEY_REF_PATTERN, self.api_key_ref):
            raise InvalidInputError(
                "api_key_ref",
                "must read env:NAME or file:/PATH, where the key is; the key is never kept",
            )
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            if limit is not None and not 1 <= limit < float("inf"):  # NaN fails this too
                raise InvalidInputError(name, f"must be a number of at least 1, not {limit!r}")
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
    #: Rises over all LLMs with every change, so that one number names what was known of each at a moment.
    version: int = 0

    @property
    def llm(self) -> LLM:
        """What the core knows of it."""
        return self.registration.llm


class LLMs:
    """LLMs by name. A retired LLM keeps its row: its prices and decisions still refer to it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(
        self, registration: Registration, *, state: State = "active", standing: Standing = _PLAIN
    ) -> None:
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
            Watches(self._session).forget(name)
            row.renewed_at = self._now()
            LengthCounts(self._session).forget(name)
        _write(row, registration)
        row.state, row.retired_at = state, None
        self._session.flush()
        self._keep(row)
        Prices(self._session).supersede(name, registration.llm.price)
        LLMJournal(self._session).write(
            Step(llm=name, from_state=None, to_state=state, standing=standing, reason="registered")
        )

    def revise(self, registration: Registration) -> int:
        """Put other facts of a living LLM in force, all but its price; give their version.

        Its evidence stays: for another model behind the name, retire it and register it anew.
        ``UnknownLLMError`` for a name that no living LLM has.
        """
        RoutingState(self._session).bump()
        row = self._session.get(LLMRow, registration.llm.name)
        if row is None or row.state == "retired":
            raise UnknownLLMError(registration.llm.name, tuple(one.llm.name for one in self.living()))
        _write(row, registration)
        self._session.flush()
        return self._keep(row)

    def living(self) -> "list[RegisteredLLM]":
        """Give the LLMs that are not retired, by ascending name."""
        return [found for found in self.list() if found.state != "retired"]

    def at_version(self, version: int) -> dict[str, LLM]:
        """Give what was known of each LLM when that was the highest version, at any price; by name.

        LLMs that were registered without a version are left out.
        """
        newest = (
            select(LLMVersionRow.llm, func.max(LLMVersionRow.version))
            .where(LLMVersionRow.version <= version)
            .group_by(LLMVersionRow.llm)
        )
        rows = self._session.scalars(
            select(LLMVersionRow).where(tuple_(LLMVersionRow.llm, LLMVersionRow.version).in_(newest))
        )
        return {row.llm: _read_llm(row.llm, row.facts, _ANY_PRICE) for row in rows}

    def _keep(self, row: LLMRow) -> int:
        kept = LLMVersionRow(llm=row.name, facts={name: getattr(row, name) for name in _FACTS})
        self._session.add(kept)
        self._session.flush()
        return kept.version

    def _versions(self) -> dict[str, int]:
        newest = func.max(LLMVersionRow.version)
        rows = self._session.execute(select(LLMVersionRow.llm, newest).group_by(LLMVersionRow.llm))
        return {row[0]: row[1] for row in rows}

    def set_state(
        self,
        name: str,
        state: State,
        *,
        standing: Standing = _PLAIN,
        reason: str = "",
        evidence: Mapping[str, Any] = _NO_EVIDENCE,
    ) -> None:
        """Move an LLM along its life cycle, and write so in the journal.

        ``UnknownLLMError`` names those that are registered.
        """
        if state not in LLM_STATES:
            raise InvalidInputError("state", f"{state!r} is none of {', '.join(LLM_STATES)}")
        RoutingState(self._session).bump()
        row = self._session.get(LLMRow, name)
        if row is None:
            raise UnknownLLMError(name, self.names())
        before = row.state
        row.retired_at = (row.retired_at or self._now()) if state == "retired" else None
        row.state = state
        self._session.flush()
        LLMJournal(self._session).write(
            Step(
                llm=name,
                from_state=before,
                to_state=state,
                standing=standing,
                reason=reason,
                evidence=evidence,
            )
        )

    def retire(self, name: str) -> None:
        """Take an LLM out of routing, now or already; ``UnknownLLMError`` for a name never registered."""
        self.set_state(name, "retired")

    def list(self, *, states: Collection[str] = LLM_STATES) -> list[RegisteredLLM]:
        """Give the LLMs in any of ``states``, in ascending order of name (by code point, as routing sorts).

        ``UnknownPriceError`` if one has no price.
        """
        rows = self._session.scalars(select(LLMRow).where(LLMRow.state.in_(states)))
        prices, versions = Prices(self._session).current(), self._versions()
        return sorted((_read(row, prices, versions) for row in rows), key=lambda found: found.llm.name)

    def renewals(self) -> dict[str, datetime | None]:
        """Say of every name ever registered when its LLM took it over from a retired one, if it did."""
        return {row[0]: row[1] for row in self._session.execute(select(LLMRow.name, LLMRow.renewed_at))}

    def names(self) -> tuple[str, ...]:
        """Give every name ever registered, retired ones too, in ascending order."""
        return tuple(sorted(self._session.scalars(select(LLMRow.name))))

    def get(self, name: str) -> RegisteredLLM | None:
        """Give one LLM; ``None`` for a name never registered."""
        row = self._session.get(LLMRow, name)
        return None if row is None else _read(row, Prices(self._session).current(), self._versions())

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
    row.requests_per_minute = registration.requests_per_minute
    row.tokens_per_minute = registration.tokens_per_minute


def _read(row: LLMRow, prices: dict[str, PriceVersion], versions: dict[str, int]) -> RegisteredLLM:
    price = prices.get(row.name)
    if price is None:
        raise UnknownPriceError(row.name, "price")
    registration = Registration(
        llm=_read_llm(row.name, {name: getattr(row, name) for name in _FACTS}, price.price),
        base_url=row.base_url,
        provider_model=row.provider_model,
        api_key_ref=row.api_key_ref,
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
    )
    return RegisteredLLM(
        registration=registration,
        state=row.state,  # type: ignore[arg-type]  # a CHECK keeps it one of the six
        price_version=price.version,
        registered_at=row.registered_at,
        retired_at=row.retired_at,
        version=versions.get(row.name, 0),
    )


def _read_llm(name: str, facts: Mapping[str, Any], price: Price) -> LLM:
    return LLM(
        name=name,
        price=price,
        context_length=facts["context_length"],
        capabilities=frozenset(facts["capabilities"]),
        simulated=facts["simulated"],
        expected_output_tokens=facts["expected_output_tokens"],
    )
