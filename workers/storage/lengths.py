"""Lengths and seconds of answers and billed input: sums, and the models that were published of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import TextClause, collate, delete, select, text
from sqlalchemy.orm import Session

from routing.costs import InputCounts, LatencyModel, LengthModel, Timings, Usage, admit_newcomers
from routing.errors import InvalidInputError
from workers.storage.cost_tables import InputCountRow
from workers.storage.published import newest, prune
from workers.storage.routing_state import RoutingState
from workers.storage.tables import LatencyCountRow, LengthCountRow, LengthVersionRow

_json = msgspec.json.Encoder()
_USAGE = tuple(field.name for field in fields(Usage))
_TIMINGS = tuple(field.name for field in fields(Timings))
_INPUTS = tuple(field.name for field in fields(InputCounts))


class LengthCounts:
    """Sums from which lengths and seconds are fitted; every write adds."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, map_version: str, llms: Sequence[str], usage: Usage) -> None:
        """Add the sums of replies to prompts of one map, (C, H) each; ``llms`` names their columns.

        ``RefusedError`` for a map or an LLM that is not kept.
        """
        cells, columns = np.nonzero(usage.replies)
        sums = [getattr(usage, name)[cells, columns].tolist() for name in _USAGE]
        rows = [
            {
                "map_version": map_version,
                "llm": llms[column],
                "cell": cell,
                **dict(zip(_USAGE, row, strict=True)),
            }
            for cell, column, *row in zip(cells.tolist(), columns.tolist(), *sums, strict=True)
        ]
        if rows:
            self._session.execute(_ADD_LENGTHS, {"rows": _json.encode(rows).decode()})

    def add_seconds(self, llms: Sequence[str], timings: Timings) -> None:
        """Add the sums of replies, (H,) each. ``RefusedError`` for an LLM that is not kept."""
        self._add_by_llm(_ADD_SECONDS, llms, timings, _TIMINGS)

    def add_inputs(self, llms: Sequence[str], inputs: InputCounts) -> None:
        """Add the sums of replies, (H,) each. ``RefusedError`` for an LLM that is not kept."""
        self._add_by_llm(_ADD_INPUTS, llms, inputs, _INPUTS)

    def _add_by_llm(
        self, statement: TextClause, llms: Sequence[str], sums: Timings | InputCounts, names: Sequence[str]
    ) -> None:
        [columns] = np.nonzero(sums.replies)
        rows = [
            {"llm": llms[column], **{name: float(getattr(sums, name)[column]) for name in names}}
            for column in columns.tolist()
        ]
        if rows:
            self._session.execute(statement, {"rows": _json.encode(rows).decode()})

    def read(self, map_version: str, llms: Sequence[str], *, n_cells: int) -> tuple[Usage, Timings]:
        """Give the sums of ``llms``, in that order; 0 where nothing was added."""
        usage = Usage(*(np.zeros((n_cells, len(llms))) for _ in _USAGE))
        timings = Timings(*(np.zeros(len(llms)) for _ in _TIMINGS))
        place = {name: column for column, name in enumerate(llms)}
        kept = LengthCountRow
        for row in self._session.execute(
            select(kept.cell, kept.llm, *(getattr(kept, name) for name in _USAGE)).where(
                kept.map_version == map_version, kept.llm.in_(llms), kept.cell < n_cells
            )
        ):
            for name, value in zip(_USAGE, row[2:], strict=True):
                getattr(usage, name)[row.cell, place[row.llm]] = value
        for row in self._session.execute(
            select(LatencyCountRow.llm, *(getattr(LatencyCountRow, name) for name in _TIMINGS)).where(
                LatencyCountRow.llm.in_(llms)
            )
        ):
            for name, value in zip(_TIMINGS, row[1:], strict=True):
                getattr(timings, name)[place[row.llm]] = value
        return usage, timings

    def read_inputs(self, llms: Sequence[str]) -> InputCounts:
        """Give the sums of ``llms``, in that order; 0 where nothing was added."""
        inputs = InputCounts(*(np.zeros(len(llms)) for _ in _INPUTS))
        place = {name: column for column, name in enumerate(llms)}
        for row in self._session.scalars(select(InputCountRow).where(InputCountRow.llm.in_(llms))):
            for name in _INPUTS:
                getattr(inputs, name)[place[row.llm]] = getattr(row, name)
        return inputs

    def forget(self, llm: str) -> None:
        """Drop every sum of an LLM, on every map; rows are locked in ``add``'s order."""
        own = LengthCountRow.llm == llm
        locked = select(LengthCountRow.cell).where(own)
        locked = locked.order_by(collate(LengthCountRow.map_version, "C"), LengthCountRow.cell)
        self._session.execute(locked.with_for_update()).all()
        for table in (LengthCountRow, LatencyCountRow, InputCountRow):
            self._session.execute(
                delete(table).where(table.llm == llm).execution_options(synchronize_session=False)
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LengthsVersion:
    """Both models as published."""

    version: int
    map_version: str
    #: Names of the models' columns, and the replies that each was learned from.
    llms: tuple[str, ...]
    replies: NDArray[np.float64]
    lengths: LengthModel
    latencies: LatencyModel
    created_at: datetime

    def of(self, llms: Sequence[str], prior_tokens: NDArray[np.float64]) -> tuple[LengthModel, LatencyModel]:
        """Give both models with the columns of ``llms``; ``prior_tokens`` are what each was registered with.

        LLMs that joined since are judged by those that were there (``admit_newcomers``), so that equal
        arguments give equal bits.
        """
        columns = {name: column for column, name in enumerate(self.llms)}
        return admit_newcomers(
            self.lengths,
            self.latencies,
            columns=[columns.get(name, -1) for name in llms],
            replies=self.replies,
            prior_tokens=prior_tokens,
        )


class Lengths:
    """Versions of both models; the highest of a map is in force while that map is active."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def publish(
        self,
        map_version: str,
        llms: Sequence[str],
        *,
        replies: NDArray[np.float64],
        lengths: LengthModel,
        latencies: LatencyModel,
    ) -> int:
        """Keep a new version for routers to pick up when the transaction commits; give its number.

        Numbers rise in the order of commits.
        """
        if not len(llms) == len(replies) == len(lengths.levels) == len(latencies.levels):
            raise InvalidInputError("llms", "must name every column of the models")
        RoutingState(self._session).bump()
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            **{f"lengths_{field.name}": getattr(lengths, field.name) for field in fields(LengthModel)},
            **{f"latencies_{field.name}": getattr(latencies, field.name) for field in fields(LatencyModel)},
        )
        row = LengthVersionRow(
            map_version=map_version, llms=list(llms), replies=replies.tolist(), models=buffer.getvalue()
        )
        self._session.add(row)
        self._session.flush()
        return row.version

    def current(self, map_version: str) -> LengthsVersion | None:
        """Give the version in force for a map; ``None`` before the first."""
        row = newest(self._session, LengthVersionRow, map_version)
        return None if row is None else _read(row)

    def get(self, version: int) -> LengthsVersion | None:
        """Give any version that is kept; ``None`` where there is none."""
        row = self._session.get(LengthVersionRow, version)
        return None if row is None else _read(row)

    def prune(self, map_version: str, *, keep_since: datetime) -> int:
        """Delete the versions of a map that were out of force by ``keep_since``; give their number.

        A version older than ``keep_since`` that was still in force then stays, and so the one in force now.
        """
        return prune(self._session, LengthVersionRow, map_version, keep_since=keep_since)


def _read(row: LengthVersionRow) -> LengthsVersion:
    with np.load(io.BytesIO(row.models), allow_pickle=False) as arrays:
        models: dict[str, Any] = {
            model: kind(
                **{
                    field.name: arrays[key]
                    for field in fields(kind)
                    if (key := f"{model}_{field.name}") in arrays  # versions of before it was kept lack it
                }
            )
            for model, kind in (("lengths", LengthModel), ("latencies", LatencyModel))
        }
    return LengthsVersion(
        version=row.version,
        map_version=row.map_version,
        llms=tuple(row.llms),
        replies=np.array(row.replies),
        created_at=row.created_at,
        **models,
    )


def _add(table: str, keys: dict[str, str], sums: Sequence[str]) -> str:
    # One order everywhere, so that learners side by side wait for each other and never deadlock.
    columns = ", ".join([*keys, *sums])
    types = ", ".join(
        [*(f"{name} {kind}" for name, kind in keys.items()), *(f"{name} float8" for name in sums)]
    )
    order = ", ".join(f'{name} COLLATE "C"' if kind == "text" else name for name, kind in keys.items())
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    return (
        f"INSERT INTO {table} ({columns}) SELECT {columns} "  # noqa: S608 - names of our own columns
        f"FROM json_to_recordset(CAST(:rows AS json)) AS rows ({types}) ORDER BY {order} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"
    )


_ADD_LENGTHS = text(_add("length_counts", {"map_version": "text", "llm": "text", "cell": "int"}, _USAGE))
_ADD_SECONDS = text(_add("latency_counts", {"llm": "text"}, _TIMINGS))
_ADD_INPUTS = text(_add("input_counts", {"llm": "text"}, _INPUTS))
