"""Every score of the feedback that was corrected: rows are added, and the latest not left out is in force."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from workers.storage.learning_tables import FeedbackScoreRow
from workers.storage.tables import FeedbackRow

#: What a piece says now, before something else is said of it: the first time, what it came with.
_KEEP = text(
    "INSERT INTO feedback_scores (feedback_id, correction, event_time, score, received_at, excluded) "
    "SELECT feedback_id, correction, event_time, score, received_at, disposition = 'excluded' "
    "FROM feedback WHERE feedback_id = ANY(:pieces) ON CONFLICT DO NOTHING"
)
_ADD = text(
    "INSERT INTO feedback_scores (feedback_id, correction, event_time, score, excluded) "
    "SELECT feedback_id, true, event_time, score, excluded FROM json_to_recordset(CAST(:rows AS json)) "
    "AS rows (feedback_id text, event_time timestamptz, score float8, excluded boolean) "
    "ON CONFLICT DO NOTHING RETURNING feedback_id"
)
_SETTLE = text(
    "UPDATE feedback SET score = latest.score, event_time = latest.event_time, "
    "correction = latest.correction "
    "FROM (SELECT DISTINCT ON (feedback_id) feedback_id, score, event_time, correction FROM feedback_scores "
    "WHERE feedback_id = ANY(:pieces) AND NOT excluded "
    "ORDER BY feedback_id, correction DESC, event_time DESC, score) AS latest "
    "WHERE feedback.feedback_id = latest.feedback_id "
    "AND (feedback.score, feedback.event_time, feedback.correction) "
    "IS DISTINCT FROM (latest.score, latest.event_time, latest.correction) "
    "RETURNING feedback.feedback_id, feedback.score"
)
_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A correction as it came."""

    #: The piece that it corrects.
    feedback_id: str
    score: float
    #: By the sender's clock.
    event_time: datetime
    #: Whether its source is left out.
    excluded: bool


class Received(NamedTuple):
    """A correction that was kept, by what tells it from others."""

    source: str
    #: Of what it corrects.
    decision_id: str | None
    score: float
    event_time: datetime


class Corrections:
    """What was said of pieces of feedback after their first score; the pieces show what is in force.

    In force is the latest correction by its sender's clock, of several at one time the lowest, and the first
    score where there is none; what is left out is passed over. So it does not matter in which order they
    came, and a piece says the same without some as if these had never come.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, said: Iterable[Said]) -> tuple[int, Mapping[str, float]]:
        """Keep corrections of pieces that the caller has locked.

        Gives how many are new, and the score now in force of each piece that says something else by them.
        """
        rows = list(said)
        if not rows:
            return 0, {}
        pieces = sorted({one.feedback_id for one in rows})
        self._session.execute(_KEEP, {"pieces": pieces})
        added = self._session.execute(_ADD, {"rows": _json.encode(rows).decode()}).all()
        return len(added), self._settle(pieces)

    def since(self, sources: Collection[str], moment: datetime) -> list[Received]:
        """Give the corrections that came from ``sources`` after ``moment``."""
        piece, said = FeedbackRow, FeedbackScoreRow
        rows = self._session.execute(
            select(piece.source, piece.decision_id, said.score, said.event_time)
            .join(piece, piece.feedback_id == said.feedback_id)
            .where(said.correction, said.received_at > moment, piece.source.in_(sources))
        )
        return [Received(*row) for row in rows]

    def exclude(self, source: str, *, since: datetime | None) -> frozenset[str]:
        """Leave out what a source said from ``since`` on, or ever; give the pieces it had corrected."""
        return self._leave_out(source, since=since, excluded=True)

    def include(self, source: str) -> frozenset[str]:
        """Take in again what a source said; give the pieces concerned."""
        return self._leave_out(source, since=None, excluded=False)

    def _leave_out(self, source: str, *, since: datetime | None, excluded: bool) -> frozenset[str]:
        row = FeedbackScoreRow
        own = select(FeedbackRow.feedback_id).where(FeedbackRow.source == source)
        change = update(row).where(row.feedback_id.in_(own), row.excluded.is_(not excluded))
        if since is not None:
            change = change.where(row.received_at >= since)
        pieces = frozenset(
            self._session.scalars(
                change.values(excluded=excluded)
                .returning(row.feedback_id)
                .execution_options(synchronize_session=False)
            )
        )
        self._settle(pieces)
        return pieces

    def _settle(self, pieces: Collection[str]) -> dict[str, float]:
        if not pieces:
            return {}
        changed = self._session.execute(_SETTLE, {"pieces": sorted(pieces)})
        return {one.feedback_id: one.score for one in changed}
