"""Published error rates: versions are kept, so that any decision that is kept can be made again."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from workers.storage.published import newest, prune
from workers.storage.routing_state import RoutingState
from workers.storage.tables import ErrorRateVersionRow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatesVersion:
    """Error rates as published."""

    version: int
    map_version: str
    #: Names of the columns of ``rates``.
    llms: tuple[str, ...]
    #: Probability of a wrong answer, shape (n_cells, n_llms), in [0, 1]; read-only.
    rates: NDArray[np.float64]
    reason: str
    created_at: datetime
    #: Standard deviations of ``rates``, of the same shape; ``None`` where they were not estimated.
    deviations: NDArray[np.float64] | None = None
    #: The earlier version whose rates these are, held until they are released; ``None`` for learned ones.
    held: int | None = None


class ErrorRates:
    """Versions of error rates; the highest of a map is in force while that map is active."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def publish(
        self,
        map_version: str,
        llms: Sequence[str],
        rates: NDArray[np.float64],
        *,
        reason: str,
        deviations: NDArray[np.float64] | None = None,
        held: int | None = None,
    ) -> int:
        """Keep a new version for routers to pick up when the transaction commits; give its number.

        ``rates`` and their ``deviations`` have shape (n_cells, n_llms), in [0, 1]. Numbers rise in the order
        of commits.
        """
        matrix = np.ascontiguousarray(rates, dtype=np.float64)
        for values in (matrix,) if deviations is None else (matrix, np.asarray(deviations)):
            if values.ndim != 2 or values.shape != (len(matrix), len(llms)):  # noqa: PLR2004 - a matrix
                raise InvalidInputError("rates", f"shape {values.shape} for {len(llms)} LLMs")
            if not ((values >= 0) & (values <= 1)).all():
                raise InvalidInputError("rates", "must lie within 0..1")
        if len(set(llms)) != len(llms):
            raise InvalidInputError("llms", "a name stands twice")
        RoutingState(self._session).bump()
        row = ErrorRateVersionRow(
            map_version=map_version,
            rates=_pack(matrix),
            deviations=None if deviations is None else _pack(deviations),
            llms=list(llms),
            held=held,
            reason=reason,
        )
        self._session.add(row)
        self._session.flush()
        return row.version

    def current(self, map_version: str) -> RatesVersion | None:
        """Give the version in force for a map; ``None`` before the first."""
        row = newest(self._session, ErrorRateVersionRow, map_version)
        return None if row is None else _read(row)

    def current_version(self, map_version: str) -> int | None:
        """Give the number of the version in force for a map, without its rates."""
        return self._session.scalar(
            select(func.max(ErrorRateVersionRow.version)).where(
                ErrorRateVersionRow.map_version == map_version
            )
        )

    def history(self, map_version: str, *, last: int) -> list[RatesVersion]:
        """Give the newest ``last`` versions of a map, newest first."""
        rows = self._session.scalars(
            select(ErrorRateVersionRow)
            .where(ErrorRateVersionRow.map_version == map_version)
            .order_by(ErrorRateVersionRow.version.desc())
            .limit(last)
        )
        return [_read(row) for row in rows]

    def get(self, version: int) -> RatesVersion | None:
        """Give any version that is kept; ``None`` where there is none."""
        row = self._session.get(ErrorRateVersionRow, version)
        return None if row is None else _read(row)

    def prune(self, map_version: str, *, keep_since: datetime) -> int:
        """Delete the versions of a map that were out of force by ``keep_since``; give their number.

        A version older than ``keep_since`` that was still in force then stays, and so do the one in force
        now and the one whose rates it holds.
        """
        current = newest(self._session, ErrorRateVersionRow, map_version)
        held = frozenset() if current is None or current.held is None else frozenset({current.held})
        return prune(self._session, ErrorRateVersionRow, map_version, keep_since=keep_since, keep=held)


def _pack(matrix: NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(matrix, dtype=np.float64), allow_pickle=False)
    return buffer.getvalue()


def _unpack(packed: bytes) -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = np.load(io.BytesIO(packed), allow_pickle=False)
    matrix.setflags(write=False)
    return matrix


def _read(row: ErrorRateVersionRow) -> RatesVersion:
    return RatesVersion(
        version=row.version,
        map_version=row.map_version,
        llms=tuple(row.llms),
        rates=_unpack(row.rates),
        reason=row.reason,
        created_at=row.created_at,
        deviations=None if row.deviations is None else _unpack(row.deviations),
        held=row.held,
    )
