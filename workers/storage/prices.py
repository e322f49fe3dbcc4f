"""Prices of LLMs: a row per change, each in force from its time on until another's has come."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from routing.llms import Price
from workers.errors import UsageError
from workers.storage.routing_state import RoutingState
from workers.storage.tables import PriceRow

#: Between the highest version and the time in the name of prices some of which were set for later.
_AT = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """A price as it was set."""

    #: Rises over all LLMs, so that one number names the prices of every LLM at a moment.
    version: int
    price: Price
    valid_from: datetime


class Prices:
    """Every price of every LLM; none is ever changed or removed.

    In force is the one whose time came last, of several at one time the highest version. Now is the begin of
    the transaction, by the database's clock.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def set(self, llm: str, price: Price, *, valid_from: datetime | None = None) -> int:
        """Put a price in force, now or from ``valid_from`` on; give its version.

        ``UsageError`` for a time that is past: what was charged stays charged. ``RefusedError`` for an LLM
        that is unknown.
        """
        RoutingState(self._session).bump()
        # The lock has waited for whoever set a price before, perhaps after this transaction began.
        earlier = select(func.max(PriceRow.valid_from)).where(
            PriceRow.llm == llm, PriceRow.valid_from <= func.clock_timestamp()
        )
        now: datetime = self._session.execute(
            select(func.greatest(func.now(), earlier.scalar_subquery()))
        ).scalar_one()
        if valid_from is not None and valid_from < now:
            raise UsageError(f"{valid_from.isoformat()} is past: leave --valid-from out for now")
        row = PriceRow(
            llm=llm,
            input_usd_per_mtok=price.input_usd_per_mtok,
            output_usd_per_mtok=price.output_usd_per_mtok,
            fixed_usd=price.fixed_usd,
            cached_input_usd_per_mtok=price.cached_input_usd_per_mtok,
            valid_from=valid_from or now,
        )
        self._session.add(row)
        self._session.flush()
        return row.version

    def supersede(self, llm: str, price: Price) -> None:
        """Put a price in force from now on, and again whenever one was to come into force later."""
        self.set(llm, price)
        later = select(PriceRow.valid_from).where(PriceRow.llm == llm, PriceRow.valid_from > func.now())
        for moment in self._session.scalars(later.distinct()).all():
            self.set(llm, price, valid_from=moment)

    def current(self) -> dict[str, PriceVersion]:
        """Give the price in force of every LLM that has one, by name."""
        return self._latest(_HAS_COME)

    def version(self, version: int) -> tuple[str, PriceVersion] | None:
        """Give a price with the name of its LLM; ``None`` where there is none."""
        row = self._session.scalar(select(PriceRow).where(PriceRow.version == version))
        return None if row is None else (row.llm, _read(row))

    def name_current(self, llms: list[str]) -> str:
        """Name the prices of ``llms`` that are in force, for ``named`` to find them again.

        That is their highest version where no LLM's is older than another set up to then, which it is where
        no price was set for later; else the highest version of all, and the time of the last that came into
        force.
        """
        prices = self.current()
        versions = {name: prices[name].version for name in llms}
        highest = max(versions.values(), default=0)
        by_version = self._highest(highest)
        if all(by_version[name] == version for name, version in versions.items()):
            return str(highest)
        newest, last = self._session.execute(
            select(func.max(PriceRow.version), func.max(PriceRow.valid_from).filter(_HAS_COME))
        ).one()
        return f"{newest}{_AT}{last.isoformat()}"

    def named(self, name: str) -> dict[str, PriceVersion]:
        """Give the prices that had this name, by LLM."""
        version, at, moment = name.partition(_AT)
        if at:
            return self._latest(
                (PriceRow.version <= int(version)) & (PriceRow.valid_from <= datetime.fromisoformat(moment))
            )
        highest = tuple(self._highest(int(version)).items())
        rows = self._session.scalars(
            select(PriceRow).where(tuple_(PriceRow.llm, PriceRow.version).in_(highest))
        )
        return {row.llm: _read(row) for row in rows}

    def next_change(self) -> datetime | None:
        """Give the time at which the next price comes into force; ``None`` where none was set for later."""
        return self._session.scalar(select(func.min(PriceRow.valid_from)).where(~_HAS_COME))

    def has_come(self, moment: datetime | None) -> bool:
        """Whether it is that time, or past; never where there is none."""
        return moment is not None and bool(self._session.scalar(select(func.now() >= moment)))

    def history(self, llm: str) -> list[PriceVersion]:
        """Give every price of an LLM, in the order in which they come into force."""
        order = (PriceRow.valid_from, PriceRow.version)
        rows = self._session.scalars(select(PriceRow).where(PriceRow.llm == llm).order_by(*order))
        return [_read(row) for row in rows]

    def _latest(self, among: ColumnElement[bool]) -> dict[str, PriceVersion]:
        rows = self._session.scalars(
            select(PriceRow)
            .where(among)
            .ext(distinct_on(PriceRow.llm))
            .order_by(PriceRow.llm, PriceRow.valid_from.desc(), PriceRow.version.desc())
        )
        return {row.llm: _read(row) for row in rows}

    def _highest(self, version: int) -> dict[str, int]:
        newest = select(PriceRow.llm, func.max(PriceRow.version)).where(PriceRow.version <= version)
        return {row[0]: row[1] for row in self._session.execute(newest.group_by(PriceRow.llm))}


_HAS_COME = PriceRow.valid_from <= func.now()


def _read(row: PriceRow) -> PriceVersion:
    price = Price(
        input_usd_per_mtok=row.input_usd_per_mtok,
        output_usd_per_mtok=row.output_usd_per_mtok,
        fixed_usd=row.fixed_usd,
        cached_input_usd_per_mtok=row.cached_input_usd_per_mtok,
    )
    return PriceVersion(version=row.version, price=price, valid_from=row.valid_from)
