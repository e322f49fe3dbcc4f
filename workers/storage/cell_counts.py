"""Error counts per map, LLM and cell: every write adds."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import collate, delete, func, select, text
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from routing.quality.counts import ErrorCounts
from workers.storage.tables import ErrorCountRow

Evidence = Literal["label", "feedback"]

_ADD = {
    evidence: text(
        f"INSERT INTO error_counts (map_version, llm, cell, {evidence}_errors, {evidence}_weight) "  # noqa: S608
        "SELECT * FROM json_to_recordset(CAST(:rows AS json)) "
        "AS rows (map_version text, llm text, cell int, errors float8, weight float8) "
        "ON CONFLICT (map_version, llm, cell) DO UPDATE SET "
        f"{evidence}_errors = error_counts.{evidence}_errors + excluded.{evidence}_errors, "
        f"{evidence}_weight = error_counts.{evidence}_weight + excluded.{evidence}_weight"
    )
    for evidence in ("label", "feedback")
}
_json = msgspec.json.Encoder()


class CellCounts:
    """Sums of weighted errors and of weights, apart for labelled prompts and for feedback.

    The sums are exact, whatever the order and the batches, where every weight and error added is a multiple
    of one power of two and the totals stay below 2**53 of it (weights 1, 1/2, 1/4 and scores 0 or 1, say).
    Otherwise two orders of adding differ in the last bits.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self,
        map_version: str | Sequence[str],
        llm: Sequence[str],
        cell: ArrayLike,
        errors: ArrayLike,
        weights: ArrayLike,
        *,
        evidence: Evidence = "feedback",
    ) -> None:
        """Add ``errors[i]`` (a sum of weight * error) and ``weights[i]`` to the counts of a cell, for each i.

        Parameters: ``map_version`` one for all, or one per row; the rest of one length n; a cell may stand in
        several rows. Errors lie within 0..weight. Rows are locked in the order (map, LLM, cell), so that
        learners side by side wait for each other and never deadlock, if each calls this once a transaction.
        ``RefusedError`` for a map or an LLM that is not kept.
        """
        cells, errors_, weights_ = _as_columns(len(llm), cell, errors, weights)
        maps = [map_version] * len(llm) if isinstance(map_version, str) else list(map_version)
        if len(maps) != len(llm):
            raise InvalidInputError("map_version", f"{len(maps)} versions for {len(llm)} rows")
        totals: dict[tuple[str, str, int], list[float]] = {}
        for key, error, weight in zip(
            zip(maps, llm, cells.tolist(), strict=True), errors_.tolist(), weights_.tolist(), strict=True
        ):
            total = totals.setdefault(key, [0.0, 0.0])
            total[0] += error
            total[1] += weight
        if not totals:
            return
        columns = ("map_version", "llm", "cell", "errors", "weight")
        rows = [dict(zip(columns, (*key, *totals[key]), strict=True)) for key in sorted(totals)]
        self._session.execute(_ADD[evidence], {"rows": _json.encode(rows).decode()})

    def read(
        self,
        map_version: str,
        llms: Sequence[str],
        *,
        n_cells: int,
        evidence: Sequence[Evidence] = ("label", "feedback"),
    ) -> ErrorCounts:
        """Give the counts of ``llms``, in that order, as (n_cells, n_llms); 0 where nothing was added."""
        found = ErrorCounts(errors=np.zeros((n_cells, len(llms))), labels=np.zeros((n_cells, len(llms))))
        place = {name: column for column, name in enumerate(llms)}
        rows = self._session.execute(
            select(
                ErrorCountRow.cell,
                ErrorCountRow.llm,
                ErrorCountRow.label_errors,
                ErrorCountRow.label_weight,
                ErrorCountRow.feedback_errors,
                ErrorCountRow.feedback_weight,
            ).where(ErrorCountRow.map_version == map_version, ErrorCountRow.llm.in_(llms))
        )
        for cell, llm, label_errors, label_weight, feedback_errors, feedback_weight in rows:
            if cell >= n_cells:
                raise InvalidInputError("n_cells", f"cell {cell} has counts, the map has {n_cells} cells")
            at = (cell, place[llm])
            if "label" in evidence:
                found.errors[at] += label_errors
                found.labels[at] += label_weight
            if "feedback" in evidence:
                found.errors[at] += feedback_errors
                found.labels[at] += feedback_weight
        return found

    def forget(self, llm: str) -> None:
        """Drop every count of an LLM, on every map; rows are locked in ``add``'s order."""
        own = ErrorCountRow.llm == llm
        by_code_point = collate(ErrorCountRow.map_version, "C")  # as Python sorts, in ``add``
        locked = select(ErrorCountRow.cell).where(own).order_by(by_code_point, ErrorCountRow.cell)
        self._session.execute(locked.with_for_update()).all()
        self._session.execute(delete(ErrorCountRow).where(own).execution_options(synchronize_session=False))


def lock_refits(session: Session, map_version: str) -> None:
    """Let one transaction at a time refit a map's error rates; the others wait here until it ends.

    Counts read after this hold everything that earlier refits saw, so published versions never go back.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(_REFIT + map_version, 0))))


def try_lock_refits(session: Session, map_version: str) -> bool:
    """Take the lock of ``lock_refits`` if it is free; tell whether it was."""
    taken = session.scalar(
        select(func.pg_try_advisory_xact_lock(func.hashtextextended(_REFIT + map_version, 0)))
    )
    return bool(taken)


_REFIT = "uniroute refit "


def _as_columns(
    length: int, cell: ArrayLike, errors: ArrayLike, weights: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    cells = np.asarray(cell, dtype=np.int64)
    errors_, weights_ = np.asarray(errors, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    for name, column in (("cell", cells), ("errors", errors_), ("weights", weights_)):
        if column.shape != (length,):
            raise InvalidInputError(name, f"shape {column.shape} for {length} rows")
    if not (np.isfinite(weights_).all() and (errors_ >= 0).all() and (errors_ <= weights_).all()):
        raise InvalidInputError("errors", "must lie within 0..weight, both finite")
    if (cells < 0).any():
        raise InvalidInputError("cell", "must be at least 0")
    return cells, errors_, weights_
