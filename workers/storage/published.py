"""Rows that are published as versions of a map: which is in force, and which no decision needs any more."""

from datetime import datetime
from typing import TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from workers.storage.tables import ErrorRateVersionRow, LengthVersionRow

Row = TypeVar("Row", ErrorRateVersionRow, LengthVersionRow)


def newest(session: Session, table: type[Row], map_version: str) -> Row | None:
    """Give the row in force for a map, which is the newest; ``None`` before the first."""
    return session.scalars(
        select(table).where(table.map_version == map_version).order_by(table.version.desc()).limit(1)
    ).first()


def prune(
    session: Session,
    table: type[Row],
    map_version: str,
    *,
    keep_since: datetime,
    keep: frozenset[int] = frozenset(),
) -> int:
    """Delete the rows of a map that were out of force by ``keep_since``; give their number.

    A row older than ``keep_since`` that was still in force then stays, and so do the one in force now and
    those of ``keep``, by version.
    """
    then = select(func.max(table.version)).where(
        table.map_version == map_version, table.created_at < keep_since
    )
    gone = session.scalars(
        delete(table)
        .where(table.map_version == map_version, table.version < then.scalar_subquery())
        .where(table.version.not_in(keep))
        .returning(table.version)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())
