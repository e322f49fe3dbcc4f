"""Prices of LLMs: a row per change, the highest version in force."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from routing.llms import Price
from workers.storage.routing_state import RoutingState
from workers.storage.tables import PriceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """A price as it was set."""

    #: Rises over all LLMs, so that one number names the prices of every LLM at a moment.
    version: int
    price: Price
    valid_from: datetime


class Prices:
    """Every price of every LLM; none is ever changed or removed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def set(self, llm: str, price: Price) -> int:
        """Put a price in force from now on; give its version. ``RefusedError`` for an LLM that is unknown."""
        RoutingState(self._session).bump()
        row = PriceRow(
            llm=llm,
            input_usd_per_mtok=price.input_usd_per_mtok,
            output_usd_per_mtok=price.output_usd_per_mtok,
            fixed_usd=price.fixed_usd,
            cached_input_usd_per_mtok=price.cached_input_usd_per_mtok,
        )
        self._session.add(row)
        self._session.flush()
        return row.version

    def current(self, *, at_version: int | None = None) -> dict[str, PriceVersion]:
        """Give the price in force of every LLM that has one, by name.

        With ``at_version``: the prices that were in force when that was the highest version.
        """
        newest = select(PriceRow.llm, func.max(PriceRow.version)).group_by(PriceRow.llm)
        if at_version is not None:
            newest = newest.where(PriceRow.version <= at_version)
        rows = self._session.scalars(
            select(PriceRow).where(tuple_(PriceRow.llm, PriceRow.version).in_(newest))
        )
        return {row.llm: _read(row) for row in rows}

    def history(self, llm: str) -> list[PriceVersion]:
        """Give every price of an LLM, oldest first."""
        rows = self._session.scalars(select(PriceRow).where(PriceRow.llm == llm).order_by(PriceRow.version))
        return [_read(row) for row in rows]


def _read(row: PriceRow) -> PriceVersion:
    price = Price(
        input_usd_per_mtok=row.input_usd_per_mtok,
        output_usd_per_mtok=row.output_usd_per_mtok,
        fixed_usd=row.fixed_usd,
        cached_input_usd_per_mtok=row.cached_input_usd_per_mtok,
    )
    return PriceVersion(version=row.version, price=price, valid_from=row.valid_from)
