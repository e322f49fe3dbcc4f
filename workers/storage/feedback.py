"""Feedback rows: each piece kept once, and each decision once per source, whoever sends it again."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import msgspec
from sqlalchemy import Text, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from workers.storage.tables import DISPOSITIONS, MAX_NAME_BYTES, FeedbackRow

#: Postgres indexes no key of more than a third of a page.
_MAX_KEY_BYTES = 2_500


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEntry:
    """A piece of feedback as it is kept.

    ``InvalidInputError`` names a field that Postgres would refuse: one bad piece never costs its batch.
    """

    #: The sender's own id: sent twice, it counts once.
    feedback_id: str
    #: The signed token it quoted, in its one spelling; ``None`` where it named prompt and LLM instead.
    #: A decision counts once per source.
    decision_id: str | None
    prompt_id: str
    llm: str
    #: Version of the cluster map whose cells follow.
    map_version: str
    #: The prompt's cell in each of the map's resolutions.
    cells: tuple[int, ...]
    #: Quality in 0..1: 1 is right.
    score: float
    #: Trust in the source; 1 is one label's worth.
    weight: float = 1.0
    source: str = "human"
    tenant: str | None = None
    #: When it was given, by the sender's clock; with a time zone.
    event_time: datetime
    disposition: str = "counted"

    def __post_init__(self) -> None:
        for name in ("feedback_id", "decision_id", "prompt_id", "llm", "map_version", "source", "tenant"):
            _check_text(name, getattr(self, name))
        if not 0 < len(self.feedback_id.encode()) <= MAX_NAME_BYTES:
            raise InvalidInputError("feedback_id", f"must have 1 to {MAX_NAME_BYTES} bytes")
        if len((self.decision_id or "").encode()) + len(self.source.encode()) > _MAX_KEY_BYTES:
            raise InvalidInputError("decision_id", f"has, with source, more than {_MAX_KEY_BYTES} bytes")
        if not 0.0 <= self.score <= 1.0:
            raise InvalidInputError("score", f"{self.score} is not within 0..1")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InvalidInputError("weight", f"{self.weight} is not a finite number of at least 0")
        if self.event_time.tzinfo is None:
            raise InvalidInputError("event_time", "has no time zone")
        if self.disposition not in DISPOSITIONS:
            raise InvalidInputError(
                "disposition", f"{self.disposition!r} is none of {', '.join(DISPOSITIONS)}"
            )


def _check_text(field: str, value: str | None) -> None:
    """Refuse what Postgres cannot keep as text: NUL, and surrogates that are no UTF-8."""
    if value is None or (value.isascii() and "\0" not in value):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(field, "is not UTF-8") from error
    if "\0" in value:
        raise InvalidInputError(field, "holds a NUL character")


_COLUMNS = tuple(field.name for field in fields(FeedbackEntry))
_TYPES = dict.fromkeys(_COLUMNS, "text") | {
    "cells": "int[]",
    "score": "float8",
    "weight": "float8",
    "event_time": "timestamptz",
}
_INSERT = text(
    # One parameter, whatever the number of rows: an array per column costs the client four times as much.
    f"INSERT INTO feedback ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own columns
    f"SELECT {', '.join(_COLUMNS)} FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    f"({', '.join(f'{name} {kind}' for name, kind in _TYPES.items())}) "
    # Without a target: by feedback id, and by decision and source.
    "ON CONFLICT DO NOTHING RETURNING feedback_id, decision_id, source"
)
_json = msgspec.json.Encoder()
_Key = tuple[str, str | None, str]


def _lock_order(entry: FeedbackEntry) -> tuple[str, str]:
    return ("", entry.feedback_id) if entry.decision_id is None else (entry.decision_id, entry.source)


class Feedback:
    """Feedback as received, one row per feedback id, and one per decision and source."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(self, entries: Iterable[FeedbackEntry]) -> dict[str, FeedbackEntry]:
        """Keep what is new, in one statement, and give exactly that: entry by feedback id.

        Count each value of the result once and nothing else. Left out is a feedback id, or a decision from
        the same source, that is kept already, that another transaction commits first, or that stands again
        in ``entries`` (the first is kept). A concurrent transaction with a common key is waited for. Keys are
        locked in the order of decision, source and id, so that two learners never deadlock over feedback
        whose id always quotes the same decision; over ids used anew, Postgres makes one of them try again.
        """
        offered: dict[_Key, FeedbackEntry] = {}
        for entry in entries:
            offered.setdefault((entry.feedback_id, entry.decision_id, entry.source), entry)
        if not offered:
            return {}
        # Sorting is stable: of several on one decision, the first that was offered is kept.
        ordered = sorted(offered.values(), key=_lock_order)
        kept = self._session.execute(_INSERT, {"rows": _json.encode(ordered).decode()})
        return {row.feedback_id: offered[row.feedback_id, row.decision_id, row.source] for row in kept}

    def replace(self, llm: str) -> None:
        """Keep the feedback on an LLM, but count it no more: another takes its name."""
        self._session.execute(
            update(FeedbackRow)
            .where(FeedbackRow.llm == llm, FeedbackRow.disposition == "counted")
            .values(disposition="replaced")
            .execution_options(synchronize_session=False)
        )

    def scores(self, decision_ids: Sequence[str]) -> dict[str, float]:
        """Give the score of each decision that counted feedback was given on: its sources' mean, by trust."""
        trusted = func.sum(FeedbackRow.weight)
        rows = self._session.execute(
            select(FeedbackRow.decision_id, func.sum(FeedbackRow.weight * FeedbackRow.score) / trusted)
            .where(
                FeedbackRow.decision_id == func.any(cast(list(decision_ids), ARRAY(Text()))),
                FeedbackRow.disposition == "counted",
            )
            .group_by(FeedbackRow.decision_id)
            .having(trusted > 0)
        )
        return {decision_id: min(max(score, 0.0), 1.0) for decision_id, score in rows if decision_id}

    def counted(self, map_version: str) -> Iterator[FeedbackEntry]:
        """Stream the feedback that counts for a map, by feedback id: what a refold folds."""
        rows = self._session.scalars(
            select(FeedbackRow)
            .where(FeedbackRow.map_version == map_version, FeedbackRow.disposition == "counted")
            .order_by(FeedbackRow.feedback_id)
            .execution_options(yield_per=1000)
        )
        for row in rows:
            values = {name: getattr(row, name) for name in _COLUMNS}
            yield FeedbackEntry(**{**values, "cells": tuple(row.cells)})
