"""Error counts per map, LLM and cell, apart for labels and for each source of feedback; every write adds."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import Integer, cast, collate, delete, func, insert, literal, select, text, update
from sqlalchemy.orm import Session

from routing.clusters import PARTS
from routing.errors import InvalidInputError
from routing.learning import KEEP_AFTER_CHANGE
from routing.quality.counts import ErrorCounts
from workers.storage.learning_tables import EarlierLabelsRow, FeedbackCountRow
from workers.storage.tables import ErrorCountRow, FeedbackRow

Evidence = Literal["label", "feedback"]
#: Map, LLM, source, epoch, day and cell.
CountKey = tuple[str, str, str, int, int, int]
Value = TypeVar("Value", str, int)
#: Errors are rounded to multiples of this before they are split, so that sums are exact in any order.
GRAIN = 2.0**-20
#: So that the logarithm of a power of two falls short of no whole number.
_ROUNDING = 1e-9

_ADD_LABELS = text(
    "INSERT INTO error_counts (map_version, llm, cell, label_errors, label_weight) "
    "SELECT * FROM json_to_recordset(CAST(:rows AS json)) "
    "AS rows (map_version text, llm text, cell int, errors float8, weight float8) "
    "ON CONFLICT (map_version, llm, cell) DO UPDATE SET "
    "label_errors = error_counts.label_errors + excluded.label_errors, "
    "label_weight = error_counts.label_weight + excluded.label_weight"
)
_ADD_FEEDBACK = text(
    "INSERT INTO feedback_counts (map_version, llm, source, epoch, day, cell, errors, labels) "
    "SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    "(map_version text, llm text, source text, epoch int, day int, cell int, errors float8, weight float8) "
    "ON CONFLICT (map_version, llm, source, epoch, day, cell) DO UPDATE SET "
    "errors = feedback_counts.errors + excluded.errors, labels = feedback_counts.labels + excluded.labels"
)
#: What the feedback that counts adds up to; ``record`` and this round alike, half to even, before a piece is
#: split. Errors are multiples of ``GRAIN / PARTS``, and sums of them exact up to 2**26 labels of a cell.
_FOLD = (
    "SELECT map_version, llm, source, epoch, day, cell, "  # noqa: S608 - our own numbers
    f"sum(round((1 - score) * 1048576) * share) / (1048576 * {PARTS}) AS errors, "
    f"sum(share) / {PARTS}::float8 AS labels "
    "FROM (SELECT map_version, llm, source, epoch, day, score, cells, shares, disposition FROM feedback "
    "UNION ALL SELECT placed.map_version, llm, source, epoch, day, score, placed.cells, placed.shares, "
    "disposition FROM feedback_placements AS placed JOIN feedback USING (feedback_id)) AS pieces, "
    "unnest(cells, CASE WHEN shares = '{{}}' "
    f"THEN array_fill({PARTS}, ARRAY[cardinality(cells)]) ELSE shares END) AS part (cell, share) "
    "WHERE disposition = 'counted' "
    "AND map_version IN (SELECT version FROM cluster_maps) AND llm IN (SELECT name FROM llms) {only}"
    "GROUP BY map_version, llm, source, epoch, day, cell"
)
_json = msgspec.json.Encoder()


def round_error(score: float) -> float:
    """Give 1 - ``score`` as it is counted: to the nearest multiple of ``GRAIN``, half to even."""
    return round((1.0 - score) / GRAIN) * GRAIN


class CellCounts:
    """Sums of errors and of labels, apart for labelled prompts and for each source of feedback.

    Feedback is not weighted: what a source is worth is known only when rates are made of it. Its sums are
    exact, whatever the order and the batches, for errors of ``round_error``; so is everything where each
    number added is a multiple of one power of two and the totals stay below 2**53 of it.
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
        source: str | Sequence[str] = "human",
        epoch: int | Sequence[int] = 0,
        day: int | Sequence[int] = 0,
    ) -> None:
        """Add ``errors[i]`` (a sum of weight * error) and ``weights[i]`` to the counts of a cell, for each i.

        Parameters: ``map_version`` one for all, or one per row; the rest of one length n; a cell may stand in
        several rows. Errors lie within 0..weight. ``source``, ``epoch`` and ``day`` tell feedback apart, one
        for all or one per row. Rows are locked in the order (map, LLM, source, epoch, day, cell), so that
        learners side by side wait for each other and never deadlock, if each calls this once a transaction.
        ``RefusedError`` for a map or an LLM that is not kept.
        """
        cells, errors_, weights_ = _as_columns(len(llm), cell, errors, weights)
        n = len(llm)
        keys = zip(
            _repeat("map_version", map_version, n),
            llm,
            _repeat("source", source, n),
            _repeat("epoch", epoch, n),
            _repeat("day", day, n),
            cells.tolist(),
            strict=True,
        )
        self._add(zip(keys, errors_.tolist(), weights_.tolist(), strict=True), evidence=evidence)

    def add_feedback(self, rows: Iterable[tuple[CountKey, float, float]]) -> None:
        """Add errors and labels of feedback; a correction adds errors below 0 too, and no label."""
        self._add(rows, evidence="feedback")

    def _add(self, rows: Iterable[tuple[CountKey, float, float]], *, evidence: Evidence) -> None:
        totals: dict[CountKey, list[float]] = {}
        for key, error, weight in rows:
            total = totals.setdefault(key, [0.0, 0.0])
            total[0] += error
            total[1] += weight
        if not totals:
            return
        columns = ("map_version", "llm", "source", "epoch", "day", "cell", "errors", "weight")
        sent = [dict(zip(columns, (*key, *totals[key]), strict=True)) for key in sorted(totals)]
        statement = _ADD_LABELS if evidence == "label" else _ADD_FEEDBACK
        self._session.execute(statement, {"rows": _json.encode(sent).decode()})

    def read(
        self,
        map_version: str,
        llms: Sequence[str],
        *,
        n_cells: int,
        evidence: Sequence[Evidence] = ("label", "feedback"),
    ) -> ErrorCounts:
        """Give the counts of ``llms``, in that order, as (n_cells, n_llms); 0 where nothing was added.

        Feedback of all sources counts alike here, and in full, whenever it came.
        """
        found = _no_counts(n_cells, len(llms))
        if "label" in evidence:
            found += self.labels(map_version, llms, n_cells=n_cells, epochs=None)
        if "feedback" in evidence:
            for counts in self.by_source(map_version, llms, n_cells=n_cells, epochs=None).values():
                found += counts
        return found

    def labels(
        self, map_version: str, llms: Sequence[str], *, n_cells: int, epochs: Mapping[str, int] | None
    ) -> ErrorCounts:
        """Give the counts of labelled prompts, (n_cells, n_llms); ``epochs`` as for ``by_source``."""
        rows = self._session.execute(
            select(
                ErrorCountRow.cell, ErrorCountRow.llm, ErrorCountRow.label_errors, ErrorCountRow.label_weight
            ).where(ErrorCountRow.map_version == map_version, ErrorCountRow.llm.in_(llms))
        )
        found = _no_counts(n_cells, len(llms))
        place = {name: column for column, name in enumerate(llms)}
        for cell, llm, errors, labels in rows:
            _check_cell(cell, n_cells)
            found.errors[cell, place[llm]] += errors
            found.labels[cell, place[llm]] += labels
        if epochs is not None:
            self._weigh_earlier(found, map_version, place, epochs)
        return found

    def _weigh_earlier(
        self, found: ErrorCounts, map_version: str, place: Mapping[str, int], epochs: Mapping[str, int]
    ) -> None:
        """Take off what labels of before each change weigh less since: all but ``KEEP_AFTER_CHANGE``."""
        row = EarlierLabelsRow
        query = (
            select(row.epoch, row.cell, row.llm, row.label_errors, row.label_weight)
            .where(row.map_version == map_version, row.llm.in_(place))
            .order_by(row.epoch)
        )
        for epoch, cell, llm, errors, labels in self._session.execute(query):
            lost = (1.0 - KEEP_AFTER_CHANGE) * KEEP_AFTER_CHANGE ** max(0, epochs.get(llm, 0) - epoch)
            found.errors[cell, place[llm]] -= lost * errors
            found.labels[cell, place[llm]] -= lost * labels
        np.clip(found.labels, 0.0, None, out=found.labels)
        np.clip(found.errors, 0.0, found.labels, out=found.errors)

    def by_source(
        self, map_version: str, llms: Sequence[str], *, n_cells: int, epochs: Mapping[str, int] | None
    ) -> dict[str, ErrorCounts]:
        """Give the feedback of each source that gave any, (n_cells, n_llms), unweighted, of whatever day.

        ``epochs`` says how often each LLM was noticed to change, 0 where it is left out: what was counted so
        many changes ago is scaled by ``KEEP_AFTER_CHANGE`` for each since; with ``None`` nothing is.
        """
        return add_spans(self.by_span(map_version, llms, n_cells=n_cells, epochs=epochs))

    def by_span(
        self, map_version: str, llms: Sequence[str], *, n_cells: int, epochs: Mapping[str, int] | None
    ) -> list[dict[str, ErrorCounts]]:
        """Give ``by_source`` apart for each span of days, the oldest first.

        Spans double: the newest day of the map's feedback, the two before it, the four before these, and so
        on. So they stay few, and none is longer than the days that came after it, and one.
        """
        row = FeedbackCountRow
        newest = select(func.max(row.day)).where(row.map_version == map_version).scalar_subquery()
        span = cast(func.floor(func.ln(newest - row.day + 1) / math.log(2) + _ROUNDING), Integer)
        keys = (span.label("span"), row.source, row.epoch, row.cell, row.llm)
        query = (
            select(*keys, func.sum(row.errors), func.sum(row.labels))
            .where(row.map_version == map_version, row.llm.in_(llms))
            .group_by("span", row.source, row.epoch, row.cell, row.llm)
            .order_by("span", row.epoch)
        )
        place = {name: column for column, name in enumerate(llms)}
        spans: dict[int, dict[str, ErrorCounts]] = {}
        for number, source, epoch, cell, llm, errors, labels in self._session.execute(query):
            _check_cell(cell, n_cells)
            of_span = spans.setdefault(number, {})
            counts = of_span.setdefault(source, _no_counts(n_cells, len(llms)))
            kept = 1.0 if epochs is None else KEEP_AFTER_CHANGE ** max(0, epochs.get(llm, 0) - epoch)
            counts.errors[cell, place[llm]] += kept * errors
            counts.labels[cell, place[llm]] += kept * labels
        return [dict(sorted(spans[number].items())) for number in sorted(spans, reverse=True)]

    def mark_labels(self, llm: str, *, epoch: int) -> None:
        """Note what labels say of an LLM that was noticed to change: it describes what the LLM was."""
        row = ErrorCountRow
        names = ["map_version", "llm", "epoch", "cell", "label_errors", "label_weight"]
        stood = select(
            row.map_version, row.llm, literal(epoch), row.cell, row.label_errors, row.label_weight
        ).where(row.llm == llm)
        self._session.execute(insert(EarlierLabelsRow).from_select(names, stood))

    def begin_anew(self, llms: Collection[str]) -> None:
        """Count all that is kept of these LLMs as if none had been noticed to change.

        ``lock_counting`` first, alone.
        """
        for statement in (
            delete(EarlierLabelsRow).where(EarlierLabelsRow.llm.in_(llms)),
            update(FeedbackRow).where(FeedbackRow.llm.in_(llms), FeedbackRow.epoch > 0).values(epoch=0),
        ):
            self._session.execute(statement.execution_options(synchronize_session=False))
        for llm in sorted(llms):
            self.refold(llm=llm)

    def refold(
        self, *, source: str | None = None, map_version: str | None = None, llm: str | None = None
    ) -> int:
        """Count feedback that is kept anew, of one source, map or LLM or of all; give the number of cells.

        ``lock_counting`` first, alone.
        """
        forget = delete(FeedbackCountRow).execution_options(synchronize_session=False)
        only, parameters = "", {}
        if source is not None:
            forget = forget.where(FeedbackCountRow.source == source)
            only, parameters = "AND source = :source ", {"source": source}
        if map_version is not None:
            forget = forget.where(FeedbackCountRow.map_version == map_version)
            only, parameters = f"{only}AND map_version = :map ", {**parameters, "map": map_version}
        if llm is not None:
            forget = forget.where(FeedbackCountRow.llm == llm)
            only, parameters = f"{only}AND llm = :llm ", {**parameters, "llm": llm}
        self._session.execute(forget)
        added = self._session.execute(
            text(
                "WITH added AS (INSERT INTO feedback_counts "  # noqa: S608 - our own text
                f"(map_version, llm, source, epoch, day, cell, errors, labels) {_FOLD.format(only=only)} "
                "RETURNING 1) SELECT count(*) FROM added"
            ),
            parameters,
        )
        return int(added.scalar_one())

    def forget(self, llm: str) -> None:
        """Drop every count of an LLM, on every map; rows are locked in ``add``'s order."""
        self._session.execute(
            delete(EarlierLabelsRow)
            .where(EarlierLabelsRow.llm == llm)
            .execution_options(synchronize_session=False)
        )
        for row in (ErrorCountRow, FeedbackCountRow):
            own = row.llm == llm
            by_code_point = collate(row.map_version, "C")  # as Python sorts, in ``add``
            order = [by_code_point, row.cell]
            if row is FeedbackCountRow:
                order[1:1] = [
                    collate(FeedbackCountRow.source, "C"),
                    FeedbackCountRow.epoch,
                    FeedbackCountRow.day,
                ]
            self._session.execute(select(row.cell).where(own).order_by(*order).with_for_update()).all()
            self._session.execute(delete(row).where(own).execution_options(synchronize_session=False))


def add_spans(spans: Sequence[Mapping[str, ErrorCounts]]) -> dict[str, ErrorCounts]:
    """Add up the counts of each source; sums of exact counts are exact."""
    found: dict[str, ErrorCounts] = {}
    for span in spans:
        for source, counts in span.items():
            found[source] = found[source] + counts if source in found else counts
    return dict(sorted(found.items()))


def lock_counting(session: Session, *, alone: bool) -> None:
    """Take the lock of counting until the transaction ends: learners share it, a refold has it alone."""
    lock = func.pg_advisory_xact_lock if alone else func.pg_advisory_xact_lock_shared
    session.execute(select(lock(func.hashtextextended("uniroute counting", 0))))


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


def _repeat(field: str, value: Value | Sequence[Value], length: int) -> Sequence[Value]:
    if isinstance(value, str | int):
        return [value] * length
    if len(value) != length:
        raise InvalidInputError(field, f"{len(value)} for {length} rows")
    return value


def _no_counts(n_cells: int, n_llms: int) -> ErrorCounts:
    return ErrorCounts(errors=np.zeros((n_cells, n_llms)), labels=np.zeros((n_cells, n_llms)))


def _check_cell(cell: int, n_cells: int) -> None:
    if cell >= n_cells:
        raise InvalidInputError("n_cells", f"cell {cell} has counts, the map has {n_cells} cells")
