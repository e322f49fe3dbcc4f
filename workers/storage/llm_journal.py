"""The journal of LLMs: every step of every life cycle, with the reason and the evidence it was taken on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, false, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from workers.storage.tables import Base


class LLMJournalRow(Base):
    """A step of an LLM's life cycle, or of what it may get in the state it is in."""

    __tablename__ = "llm_journal"
    __table_args__ = (
        CheckConstraint("canary_share BETWEEN 0 AND 1", name="canary_share"),
        Index("ix_llm_journal_llm", "llm", "id"),
        {"comment": "steps of LLMs' life cycles; rows are added, never changed, the last of an LLM holds"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    from_state: Mapped[str | None] = mapped_column(comment="null: it was not there, or retired")
    to_state: Mapped[str]
    canary_share: Mapped[float] = mapped_column(
        server_default="0", comment="of a canary: the share of prompts that it is offered to"
    )
    cautious: Mapped[bool] = mapped_column(
        server_default=false(), comment="whether its error rates stand at the upper end of their interval"
    )
    reason: Mapped[str] = mapped_column(server_default="", comment="why, for people")
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default="{}", comment="figures it was taken on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an LLM may get, beside its state."""

    #: Of the prompts that it is offered to, while it is a canary.
    canary_share: float = 0.0
    #: Too little is known of it: its error rates are taken from the upper end of their interval.
    cautious: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An entry of the journal."""

    llm: str
    from_state: str | None
    to_state: str
    standing: Standing = field(default_factory=Standing)
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    #: ``None`` for one that is to be written.
    at: datetime | None = None


class LLMJournal:
    """Steps of LLMs, oldest first. The last step of an LLM says how it stands."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def write(self, step: Step) -> None:
        """Add a step."""
        self._session.add(
            LLMJournalRow(
                llm=step.llm,
                from_state=step.from_state,
                to_state=step.to_state,
                canary_share=step.standing.canary_share,
                cautious=step.standing.cautious,
                reason=step.reason,
                evidence=dict(step.evidence),
            )
        )
        self._session.flush()

    def steps(self, llm: str | None = None) -> list[Step]:
        """Give the steps of one LLM, or of all."""
        rows = select(LLMJournalRow).order_by(LLMJournalRow.id)
        if llm is not None:
            rows = rows.where(LLMJournalRow.llm == llm)
        return [
            Step(
                llm=row.llm,
                from_state=row.from_state,
                to_state=row.to_state,
                standing=_read(row),
                reason=row.reason,
                evidence=row.evidence,
                at=row.at,
            )
            for row in self._session.scalars(rows)
        ]

    def standings(self) -> dict[str, Standing]:
        """Give how each LLM stands; one without a step, as any ``Standing()``, is left out."""
        last = select(func.max(LLMJournalRow.id)).group_by(LLMJournalRow.llm)
        rows = self._session.scalars(select(LLMJournalRow).where(LLMJournalRow.id.in_(last)))
        return {row.llm: _read(row) for row in rows}


def _read(row: LLMJournalRow) -> Standing:
    return Standing(canary_share=row.canary_share, cautious=row.cautious)
