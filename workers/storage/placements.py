"""Feedback on maps that it did not come with, as its prompts lie in them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing.clusters import Share
from workers.storage.feedback import count_in, portion_cells
from workers.storage.learning_tables import FeedbackPlacementRow
from workers.storage.tables import FeedbackRow

_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ElsewherePiece:
    """A piece of feedback that came with another map."""

    feedback_id: str
    prompt_id: str
    llm: str
    score: float
    #: Whether it counts.
    counted: bool


class Placements:
    """Placements by map and piece; counts hold them after ``CellCounts.refold``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pieces(self, map_version: str) -> Iterator[ElsewherePiece]:
        """Yield the feedback that is kept and came with another map, by id."""
        rows = self._session.scalars(
            select(FeedbackRow)
            .where(FeedbackRow.map_version != map_version, FeedbackRow.disposition != "replaced")
            .order_by(FeedbackRow.feedback_id)
            .execution_options(yield_per=_ROWS)
        )
        for row in rows:
            yield ElsewherePiece(
                feedback_id=row.feedback_id,
                prompt_id=row.prompt_id,
                llm=row.llm,
                score=row.score,
                counted=row.disposition == "counted",
            )

    def add(self, map_version: str, placed: Mapping[str, tuple[tuple[int, ...], tuple[Share, ...]]]) -> None:
        """Keep where pieces stand, by feedback id: own cells and split; one that is kept already stays."""
        rows = []
        for feedback_id, (own, split) in sorted(placed.items()):
            cells, shares = count_in(own, split)
            rows.append(
                {
                    "map_version": map_version,
                    "feedback_id": feedback_id,
                    "cells": list(cells),
                    "shares": list(shares),
                }
            )
        for start in range(0, len(rows), _ROWS):
            added = insert(FeedbackPlacementRow).values(rows[start : start + _ROWS])
            self._session.execute(added.on_conflict_do_nothing())

    def of(self, feedback_ids: Collection[str]) -> dict[str, list[tuple[str, Sequence[tuple[int, float]]]]]:
        """Give, for those of the pieces that stand on further maps, each map with the portions there."""
        found: dict[str, list[tuple[str, Sequence[tuple[int, float]]]]] = {}
        row = FeedbackPlacementRow
        for one in self._session.scalars(select(row).where(row.feedback_id.in_(feedback_ids))):
            portions = portion_cells(one.cells, one.shares)
            found.setdefault(one.feedback_id, []).append((one.map_version, portions))
        return found

    def number(self, map_version: str) -> int:
        """Count the pieces that stand on a map by placement."""
        row = FeedbackPlacementRow
        return (
            self._session.scalar(select(func.count()).select_from(row).where(row.map_version == map_version))
            or 0
        )

    def forget(self, map_version: str) -> None:
        """Drop the placements of a map."""
        row = FeedbackPlacementRow
        self._session.execute(
            delete(row).where(row.map_version == map_version).execution_options(synchronize_session=False)
        )
