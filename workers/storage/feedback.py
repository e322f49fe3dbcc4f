"""Feedback rows: each piece kept once, and each decision once per source, unless it is corrected."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Text, case, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from routing.clusters import PARTS, Share
from routing.errors import InvalidInputError
from workers.storage.corrections import Corrections, Said
from workers.storage.tables import DISPOSITIONS, MAX_NAME_BYTES, FeedbackRow

#: Postgres indexes no key of more than a third of a page.
_MAX_KEY_BYTES = 2_500
_PAIR = "pair:"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEntry:
    """A piece of feedback as it is kept.

    ``InvalidInputError`` names a field that Postgres would refuse: one bad piece never costs its batch.
    """

    #: The sender's own id: sent twice, it counts once.
    feedback_id: str
    #: The signed token it quoted, in its one spelling; ``name_pair`` where it named prompt and LLM instead. A
    #: decision counts once per source, and so does a pair. ``None`` where only its id tells it apart.
    decision_id: str | None
    prompt_id: str
    llm: str
    #: Version of the cluster map whose cells follow.
    map_version: str
    #: The cells it counts in: the prompt's in each of the map's resolutions, or those it is split over.
    cells: tuple[int, ...]
    #: For each of ``cells``, the parts of ``PARTS`` that it counts there; empty where each counts it whole.
    shares: tuple[int, ...] = ()
    #: Quality in 0..1: 1 is right.
    score: float
    #: Trust in the source; 1 is one label's worth.
    weight: float = 1.0
    source: str = "human"
    tenant: str | None = None
    #: When it was given, by the sender's clock, but not later than it came; with a time zone.
    event_time: datetime
    disposition: str = "counted"
    #: Whether it replaces what the same source said of the same decision.
    correction: bool = False
    #: How often the LLM had been noticed to change when it came.
    epoch: int = 0
    #: When the decision was made, or the piece came where it quoted none, in days since 1970.
    day: int = 0
    #: When the decision was made, in seconds since 1970, where it quoted one; not kept.
    decided_at: int | None = field(default=None, compare=False)

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
        if self.shares and len(self.shares) != len(self.cells):
            raise InvalidInputError("shares", f"{len(self.shares)} of {len(self.cells)} cells")
        if self.event_time.tzinfo is None:
            raise InvalidInputError("event_time", "has no time zone")
        if self.disposition not in DISPOSITIONS:
            raise InvalidInputError(
                "disposition", f"{self.disposition!r} is none of {', '.join(DISPOSITIONS)}"
            )


def name_pair(prompt_id: str, llm: str) -> str:
    """Give what stands for the decision id of feedback on a prompt and an LLM; no token holds a colon."""
    return _PAIR + hashlib.sha256(f"{llm}\n{prompt_id}".encode()).hexdigest()


def count_in(own: tuple[int, ...], split: tuple[Share, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the cells that a piece counts in, and its shares of them; none where each counts it whole."""
    if not split:
        return own, ()
    return tuple(cell for cell, _ in split), tuple(parts for _, parts in split)


def portion_cells(cells: Sequence[int], shares: Sequence[int]) -> tuple[tuple[int, float], ...]:
    """Give each cell with its share, in (0, 1], of the observation; ``shares`` may be empty: all whole."""
    if not shares:
        return tuple((cell, 1.0) for cell in cells)
    return tuple((cell, parts / PARTS) for cell, parts in zip(cells, shares, strict=True))


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


_COLUMNS = tuple(one.name for one in fields(FeedbackEntry) if one.name != "decided_at")
_TYPES = dict.fromkeys(_COLUMNS, "text") | {
    "cells": "int[]",
    "shares": "int[]",
    "score": "float8",
    "weight": "float8",
    "event_time": "timestamptz",
    "correction": "boolean",
    "epoch": "int",
    "day": "int",
}
_INSERT = text(
    # One parameter, whatever the number of rows: an array per column costs the client four times as much.
    f"INSERT INTO feedback ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own columns
    f"SELECT {', '.join(_COLUMNS)} FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    f"({', '.join(f'{name} {kind}' for name, kind in _TYPES.items())}) "
    # Without a target: by feedback id, and by decision and source.
    "ON CONFLICT DO NOTHING RETURNING feedback_id, decision_id, source"
)
_FIND = text(
    "SELECT feedback.feedback_id, feedback.decision_id, feedback.source, feedback.score, "
    "feedback.llm, feedback.map_version, feedback.correction, feedback.disposition, feedback.epoch, "
    "feedback.cells, feedback.shares, feedback.day "
    "FROM feedback JOIN json_to_recordset(CAST(:keys AS json)) AS keys (decision_id text, source text) "
    "ON feedback.decision_id = keys.decision_id AND feedback.source = keys.source "
    'ORDER BY feedback.decision_id COLLATE "C", feedback.source COLLATE "C" FOR UPDATE OF feedback'
)
_json = msgspec.json.Encoder()
_Key = tuple[str, str | None, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A score that took the place of another, whose error is to be counted in its stead."""

    #: The piece that it corrects, in whose counts it stands.
    corrected: str
    llm: str
    source: str
    map_version: str
    epoch: int
    day: int
    portions: tuple[tuple[int, float], ...]
    #: The score that was counted before, and the one that counts now.
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of pieces that were offered."""

    #: Those that are new: count each once.
    fresh: list[FeedbackEntry]
    corrections: list[Correction]
    #: Those that say otherwise than what is kept, and do not say that they correct it.
    contradictions: list[FeedbackEntry]
    #: Those whose id is that of a piece on something else, or of another source.
    reused: list[FeedbackEntry]
    #: How many of those offered said nothing new.
    duplicates: int


def _key(entry: FeedbackEntry) -> tuple[str, str]:
    return entry.decision_id or "", entry.source


def _lock_order(entry: FeedbackEntry) -> tuple[str, str]:
    return ("", entry.feedback_id) if entry.decision_id is None else (entry.decision_id, entry.source)


def _subject_of(one: Any) -> tuple[str | None, str, str, str]:  # noqa: ANN401 (an entry or a row)
    """Give what a piece is about, and who says it."""
    return one.decision_id, one.source, one.llm, one.prompt_id


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

    def take(self, entries: Iterable[FeedbackEntry]) -> Recorded:
        """Keep what is new as ``record`` does, and correct what is to be corrected.

        Of a decision that a source has scored before, an equal score is a duplicate, and so is a first score
        that comes after a correction. Another score, under the same id too, is a contradiction, unless it is
        a correction: these are all kept, and ``Corrections`` says which is in force, in whatever order they
        come. An id that another source used, or this one for something else, is reused. What is excluded is
        kept, and no part of ``fresh``; where it corrects, it changes nothing.
        """
        offered = list(entries)
        kept = self.record(offered)
        left = [one for one in offered if kept.get(one.feedback_id) is not one]
        owners = self._find_ids(left)
        reused = [one for one in left if _is_reused(one, owners)]
        disputed = [one for one in left if not _is_reused(one, owners)]
        stored = self._find([one for one in disputed if one.decision_id is not None])
        corrected = {_key(one) for one in disputed if one.correction and one.decision_id is not None}
        contradictions = []
        for one in disputed:
            held = owners[one.feedback_id] if one.decision_id is None else stored[_key(one)]
            says_otherwise = not one.correction and not held.correction and held.score != one.score
            if says_otherwise and _key(one) not in corrected:
                contradictions.append(one)
        added, corrections = self._correct([one for one in disputed if one.correction], stored)
        return Recorded(
            fresh=[one for one in kept.values() if one.disposition == "counted"],
            corrections=corrections,
            contradictions=contradictions,
            reused=reused,
            duplicates=len(disputed) - len(contradictions) - added,
        )

    def _find_ids(self, entries: Sequence[FeedbackEntry]) -> dict[str, Any]:
        """Give what is kept under the ids of ``entries``."""
        if not entries:
            return {}
        row = FeedbackRow
        columns = (row.feedback_id, row.decision_id, row.source, row.llm, row.prompt_id)
        found = self._session.execute(
            select(*columns, row.score, row.correction).where(
                row.feedback_id == func.any(cast([one.feedback_id for one in entries], ARRAY(Text())))
            )
        )
        return {one.feedback_id: one for one in found}

    def _find(self, entries: Sequence[FeedbackEntry]) -> dict[tuple[str, str], Any]:
        if not entries:
            return {}
        keys = [{"decision_id": one.decision_id, "source": one.source} for one in entries]
        rows = self._session.execute(_FIND, {"keys": _json.encode(keys).decode()})
        return {(row.decision_id, row.source): row for row in rows}

    def _correct(
        self, said: Sequence[FeedbackEntry], stored: Mapping[tuple[str, str], Any]
    ) -> tuple[int, list[Correction]]:
        """Keep corrections; give how many are new, and what they change of what counts."""
        added, changed = Corrections(self._session).add(
            Said(
                feedback_id=stored[_key(one)].feedback_id,
                score=one.score,
                event_time=one.event_time,
                excluded=one.disposition == "excluded",
            )
            for one in said
            if _key(one) in stored
        )
        return added, [
            Correction(
                corrected=row.feedback_id,
                llm=row.llm,
                source=row.source,
                map_version=row.map_version,
                epoch=row.epoch,
                day=row.day,
                portions=portion_cells(row.cells, row.shares),
                before=row.score,
                after=changed[row.feedback_id],
            )
            for _, row in sorted(stored.items())
            if row.feedback_id in changed and row.disposition == "counted"
        ]

    def exclude(self, source: str, *, since: datetime | None) -> int:
        """Count what came of a source from ``since`` on, or ever, no more; give the number of pieces.

        By the database's clock: the sender's could be set to any time. A piece of before that was corrected
        since says again what it said then.
        """
        gone = self._dispose(source, since=since, before="counted", after="excluded")
        return len(gone | Corrections(self._session).exclude(source, since=since))

    def include(self, source: str) -> int:
        """Count again what was excluded of a source; give the number of pieces."""
        back = self._dispose(source, since=None, before="excluded", after="counted")
        return len(back | Corrections(self._session).include(source))

    def llms_of(self, source: str) -> frozenset[str]:
        """Give the LLMs that a source gave feedback on."""
        spoken = select(FeedbackRow.llm).where(FeedbackRow.source == source).distinct()
        return frozenset(self._session.scalars(spoken))

    def _dispose(self, source: str, *, since: datetime | None, before: str, after: str) -> frozenset[str]:
        change = update(FeedbackRow).where(FeedbackRow.source == source, FeedbackRow.disposition == before)
        if since is not None:
            change = change.where(FeedbackRow.received_at >= since)
        rows = self._session.scalars(
            change.values(disposition=after)
            .returning(FeedbackRow.feedback_id)
            .execution_options(synchronize_session=False)
        )
        return frozenset(rows)

    def kept(self, feedback_ids: Collection[str]) -> dict[str, tuple[float, datetime]]:
        """Give what is in force, score and time of its sender's clock, of those ids that are kept already."""
        row = FeedbackRow
        rows = self._session.execute(
            select(row.feedback_id, row.score, row.event_time).where(
                row.feedback_id == func.any(cast(list(feedback_ids), ARRAY(Text())))
            )
        )
        return {feedback_id: (score, event_time) for feedback_id, score, event_time in rows}

    def taken_since(self, sources: Collection[str], moment: datetime) -> dict[str, int]:
        """Count the pieces that came from each of ``sources`` after ``moment``."""
        rows = self._session.execute(
            select(FeedbackRow.source, func.count())
            .where(FeedbackRow.source.in_(sources), FeedbackRow.received_at > moment)
            .group_by(FeedbackRow.source)
        )
        return {one.source: one[1] for one in rows}

    def replace(self, llm: str) -> None:
        """Keep the feedback on an LLM, but count it no more: another takes its name, and its prompts."""
        row = FeedbackRow
        self._session.execute(
            update(FeedbackRow)
            .where(FeedbackRow.llm == llm, FeedbackRow.disposition == "counted")
            .values(
                disposition="replaced",
                decision_id=case((row.decision_id.startswith(_PAIR), None), else_=row.decision_id),
            )
            .execution_options(synchronize_session=False)
        )

    def scores(self, decision_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Give the score by each source of each decision that counted feedback was given on."""
        rows = self._session.execute(
            select(FeedbackRow.decision_id, FeedbackRow.source, FeedbackRow.score).where(
                FeedbackRow.decision_id == func.any(cast(list(decision_ids), ARRAY(Text()))),
                FeedbackRow.disposition == "counted",
            )
        )
        found: dict[str, dict[str, float]] = {}
        for decision_id, source, score in rows:
            found.setdefault(decision_id or "", {})[source] = score
        return found

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
            yield FeedbackEntry(**{**values, "cells": tuple(row.cells), "shares": tuple(row.shares)})


def _is_reused(one: FeedbackEntry, owners: Mapping[str, Any]) -> bool:
    owner = owners.get(one.feedback_id)
    return owner is not None and _subject_of(owner) != _subject_of(one)
