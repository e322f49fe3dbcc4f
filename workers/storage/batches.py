"""Offline batches: what was asked, how far each has come, and what happened on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import func, literal, select, tuple_, update
from sqlalchemy.orm import Session

from workers.errors import UsageError
from workers.storage.batch_tables import ENDED, BatchFileRow, BatchJournalRow, BatchRow

#: What is listed page by page.
_Row = TypeVar("_Row", BatchRow, BatchFileRow)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFile:
    """A file that was given to be run."""

    id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: datetime
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as it stood when it was read; ``BatchRow`` says what each field is."""

    id: str
    tenant: str
    status: str
    paused: bool
    input_file: str
    options: Mapping[str, Any]
    plan: Mapping[str, Any] | None
    created_at: datetime
    deadline: datetime
    in_progress_at: datetime | None
    cancelling_at: datetime | None
    finalizing_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    problem: str | None
    total: int
    completed: int
    failed: int
    repeated_calls: int
    duplicated: int
    spent_usd: Decimal
    unsettled_usd: Decimal
    settled_usd: Decimal
    largest_overrun_usd: Decimal
    predicted_usd: Decimal
    llms: Mapping[str, Any]
    positions: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in ENDED

    @property
    def budget_usd(self) -> Decimal | None:
        """What it may spend in all; ``None``: no limit."""
        budget = self.options.get("budget_usd")
        return None if budget is None else Decimal(str(budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """A batch that has not ended, with what says whether somebody is to work on it now."""

    id: str
    paused: bool
    #: Nothing but its end is left: it was cancelled, all is answered, or its deadline has passed.
    ending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """Something that happened to a batch."""

    at: datetime
    event: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Batches:
    """The batches and their files in one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add_file(
        self, file_id: str, *, filename: str, purpose: str, size: int, sha256: str, tenant: str = ""
    ) -> BatchFile:
        """Keep what is known of a file, whose bytes are kept already."""
        row = BatchFileRow(
            id=file_id, filename=filename, purpose=purpose, bytes=size, sha256=sha256, tenant=tenant
        )
        self._session.add(row)
        self._session.flush()
        self._session.refresh(row)
        found: BatchFile = _read(BatchFile, row)
        return found

    def file(self, file_id: str) -> BatchFile | None:
        """Give a file, or ``None``."""
        row = self._session.get(BatchFileRow, file_id)
        return None if row is None else _read(BatchFile, row)

    def files(
        self, *, tenant: str, limit: int, after: str | None = None, oldest_first: bool = False
    ) -> Sequence[BatchFile]:
        """Give ``limit`` of a tenant's files, newest first; ``after`` continues a list behind its last id.

        ``UsageError`` where the tenant has no file of that id.
        """
        return [
            _read(BatchFile, row)
            for row in self._page(BatchFileRow, tenant, limit, after, oldest_first=oldest_first)
        ]

    def create(
        self,
        batch_id: str,
        *,
        input_file: str,
        options: Mapping[str, Any],
        deadline: datetime,
        tenant: str = "",
    ) -> Batch:
        """Add a batch to be taken up by a batcher."""
        row = BatchRow(
            id=batch_id, input_file=input_file, options=dict(options), deadline=deadline, tenant=tenant
        )
        self._session.add(row)
        self._session.flush()
        self._session.refresh(row)
        found: Batch = _read(Batch, row)
        return found

    def find(self, batch_id: str) -> Batch | None:
        """Give a batch, or ``None``."""
        row = self._session.get(BatchRow, batch_id, populate_existing=True)
        return None if row is None else _read(Batch, row)

    def get(self, batch_id: str) -> Batch:
        """Give a batch; ``UsageError`` where there is none of that id."""
        found = self.find(batch_id)
        if found is None:
            raise UsageError(f"no batch is named {batch_id!r}: uniroute batch list shows them")
        return found

    def list(self, *, tenant: str | None = None, limit: int = 100, after: str | None = None) -> list[Batch]:
        """Give the newest ``limit`` batches, newest first; ``after`` continues a list behind its last id.

        Those of one tenant where it is named. ``UsageError`` where none of them has that id.
        """
        return [_read(Batch, row) for row in self._page(BatchRow, tenant, limit, after)]

    def _page(
        self,
        table: type[_Row],
        tenant: str | None,
        limit: int,
        after: str | None,
        *,
        oldest_first: bool = False,
    ) -> Sequence[_Row]:
        """Give the rows behind ``after``, by the time of their making, then by id."""
        place = tuple_(table.created_at, table.id)
        query = select(table).limit(limit)
        if oldest_first:
            query = query.order_by(table.created_at, table.id)
        else:
            query = query.order_by(table.created_at.desc(), table.id.desc())
        if tenant is not None:
            query = query.where(table.tenant == tenant)
        if after is not None:
            last = self._session.get(table, after)
            if last is None or tenant not in {None, last.tenant}:
                raise UsageError(f"after is {after[:80]!r}: give the last id of the page before")
            cursor = tuple_(literal(last.created_at), literal(last.id))
            query = query.where(place > cursor if oldest_first else place < cursor)
        return self._session.scalars(query).all()

    def open(self) -> Sequence[OpenBatch]:
        """Give all batches that have not ended, oldest first."""
        ending = BatchRow.status.in_(("cancelling", "finalizing")) | (BatchRow.deadline <= func.now())
        query = (
            select(BatchRow.id, BatchRow.paused, ending)
            .where(BatchRow.ended_at.is_(None))
            .order_by(BatchRow.created_at)
        )
        return [
            OpenBatch(id=batch_id, paused=paused, ending=ends)
            for batch_id, paused, ends in self._session.execute(query)
        ]

    def twins(self, sha256: str) -> Sequence[Batch]:
        """Give the batches whose file has this content, newest first."""
        query = (
            select(BatchRow)
            .join(BatchFileRow, BatchFileRow.id == BatchRow.input_file)
            .where(BatchFileRow.sha256 == sha256)
            .order_by(BatchRow.created_at.desc())
        )
        return [_read(Batch, row) for row in self._session.scalars(query)]

    def move(self, batch_id: str, to: str, *, since: Sequence[str], **changes: Any) -> bool:  # noqa: ANN401
        """Change the status if it is one of ``since``, and tell whether it was; ``changes`` come with it."""
        moved = self._session.execute(
            update(BatchRow)
            .where(BatchRow.id == batch_id, BatchRow.status.in_(since))
            .values(status=to, **changes)
            .returning(BatchRow.id)
        ).scalar()
        return moved is not None

    def set(self, batch_id: str, **changes: Any) -> None:  # noqa: ANN401
        """Write some columns of a batch and leave the others, which somebody else may be writing."""
        self._session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(**changes))

    def note(self, batch_id: str, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Write what happened into the batch's journal."""
        self._session.add(BatchJournalRow(batch=batch_id, event=event, facts=facts))

    def journal(self, batch_id: str, *, last: int = 50) -> Sequence[JournalEntry]:
        """Give the last entries of a batch's journal, oldest first."""
        query = (
            select(BatchJournalRow)
            .where(BatchJournalRow.batch == batch_id)
            .order_by(BatchJournalRow.id.desc())
            .limit(last)
        )
        return [_read(JournalEntry, row) for row in self._session.scalars(query)][::-1]

    def now(self) -> datetime:
        """Give the database's time, by which batches begin and expire."""
        return self._session.scalars(select(func.now())).one()


def _read(kind: type[Any], row: object) -> Any:  # noqa: ANN401  # one of the dataclasses above
    return kind(**{one.name: getattr(row, one.name) for one in fields(kind)})
