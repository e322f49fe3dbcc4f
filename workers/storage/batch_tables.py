"""The tables of offline batches; see ``tables`` for their kin."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Integer, false, func, text
from sqlalchemy.orm import Mapped, mapped_column

from workers.storage.tables import MAX_NAME_BYTES, Base

#: OpenAI's, each with the same meaning.
STATUSES = (
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
)
#: Statuses that nothing follows.
ENDED = ("failed", "completed", "expired", "cancelled")


class BatchFileRow(Base):
    """A file that was given to be run as a batch; its bytes lie in the folder of batches."""

    __tablename__ = "batch_files"
    __table_args__ = (
        CheckConstraint(f"octet_length(id) BETWEEN 1 AND {MAX_NAME_BYTES}", name="id"),
        Index("ix_batch_files_sha256", "sha256"),
        {"comment": "files given to be run as batches"},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(
        server_default="", comment="whose it is; empty where nobody was named"
    )
    filename: Mapped[str] = mapped_column(comment="as it was given")
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class BatchRow(Base):
    """A file of requests under one budget and one deadline, and how far it has come."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint(f"octet_length(id) BETWEEN 1 AND {MAX_NAME_BYTES}", name="id"),
        CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="status"),
        Index("ix_batches_open", "id", postgresql_where=text("ended_at IS NULL")),
        {"comment": "offline batches; the positions in files and topics are its worker's to move"},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(server_default="")
    status: Mapped[str] = mapped_column(server_default="validating")
    paused: Mapped[bool] = mapped_column(server_default=false(), comment="true: nothing more is dispatched")
    input_file: Mapped[str] = mapped_column(ForeignKey("batch_files.id"))
    options: Mapped[dict[str, Any]] = mapped_column(comment="budget, policy, quality, order, metadata")
    plan: Mapped[dict[str, Any] | None] = mapped_column(comment="the plan in force")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deadline: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(comment="the status that finalizing leads to")
    problem: Mapped[str | None] = mapped_column(comment="why it failed, for people")
    total: Mapped[int] = mapped_column(Integer, server_default="0", comment="lines, bad ones included")
    completed: Mapped[int] = mapped_column(Integer, server_default="0", comment="lines in the output file")
    failed: Mapped[int] = mapped_column(Integer, server_default="0", comment="lines in the error file")
    repeated_calls: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="calls begun in lives that ended before they could answer"
    )
    duplicated: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="second replies to a line, which were dropped"
    )
    spent_usd: Mapped[Decimal] = mapped_column(server_default="0", comment="sum of the replies' costs")
    unsettled_usd: Mapped[Decimal] = mapped_column(
        server_default="0",
        comment="estimate for calls whose usage nobody told; the budget counts it as spent",
    )
    settled_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="what was reserved for the lines that are answered"
    )
    largest_overrun_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="by which one line cost more than was reserved for it, at most"
    )
    predicted_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="what the decisions on the answered lines expected"
    )
    llms: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'"), comment="answered lines and USD of each LLM"
    )
    positions: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'"), comment="offsets of replies and lengths of files that belong together"
    )


class BatchJournalRow(Base):
    """Something that happened to a batch, for people."""

    __tablename__ = "batch_journal"
    __table_args__ = (
        Index("ix_batch_journal_batch", "batch", "id"),
        {"comment": "what happened to batches; rows are added, never changed"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    batch: Mapped[str] = mapped_column(ForeignKey("batches.id"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    event: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
