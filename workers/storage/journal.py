"""The journal: what changed what is learned, in the order it happened."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from workers.storage.learning_tables import JournalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """Something that happened."""

    id: int
    at: datetime
    #: In a word or two, e.g. ``drift``, ``feedback excluded``, ``rates rolled back``.
    kind: str
    #: The LLM, source or map that it happened to.
    subject: str
    body: dict[str, Any]


class Journal:
    """Entries are added, never changed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def write(self, kind: str, subject: str, /, **body: Any) -> None:  # noqa: ANN401 (any JSON)
        """Add an entry; it is there when the transaction commits. ``body`` is what JSON can hold."""
        self._session.add(JournalRow(kind=kind, subject=subject, body=body))
        self._session.flush()

    def read(
        self, *, kinds: tuple[str, ...] = (), subject: str | None = None, last: int = 50
    ) -> Iterator[JournalEntry]:
        """Yield the newest ``last`` entries, newest first; of all kinds and subjects unless told."""
        query = select(JournalRow).order_by(JournalRow.id.desc()).limit(last)
        if kinds:
            query = query.where(JournalRow.kind.in_(kinds))
        if subject is not None:
            query = query.where(JournalRow.subject == subject)
        for row in self._session.scalars(query):
            yield JournalEntry(id=row.id, at=row.at, kind=row.kind, subject=row.subject, body=row.body)
