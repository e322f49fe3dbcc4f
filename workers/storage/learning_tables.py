"""The tables of learning: sources and their counts, watches over LLMs, the journal."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    false,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from workers.storage.tables import MAX_NAME_BYTES, Base

#: What kinds of sources give feedback.
SOURCE_KINDS = ("human", "judge", "checker", "implicit")
#: How an LLM that is watched stands.
STANDINGS = ("steady", "worse", "returning")


class FeedbackSourceRow(Base):
    """Who gives feedback, how far it is believed, and what of it is left out."""

    __tablename__ = "feedback_sources"
    __table_args__ = (
        CheckConstraint(f"octet_length(name) BETWEEN 1 AND {MAX_NAME_BYTES}", name="name"),
        CheckConstraint("kind IN ('human', 'judge', 'checker', 'implicit')", name="kind"),
        CheckConstraint("weight >= 0 AND weight < 'Infinity'", name="weight"),
        CheckConstraint("per_hour >= 0", name="per_hour"),
        {"comment": "who gives feedback, how far each is believed, and what of it is left out"},
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(comment="human, judge, checker or implicit")
    weight: Mapped[float | None] = mapped_column(comment="of its labels; null: that of its kind")
    per_hour: Mapped[int | None] = mapped_column(
        BigInteger, comment="pieces taken of it in any hour; null: all"
    )
    excluded_since: Mapped[datetime | None] = mapped_column(
        comment="what it gave since then counts nothing; null: all counts"
    )
    trust: Mapped[float] = mapped_column(server_default="1", comment="as last estimated; 0: flagged")
    bias: Mapped[float] = mapped_column(server_default="0", comment="as last estimated")
    compared: Mapped[float] = mapped_column(
        server_default="0", comment="its labels that others' could be held against"
    )
    first_seen: Mapped[datetime] = mapped_column(server_default=func.now())


class FeedbackCountRow(Base):
    """Sums of errors and of scores of one source on one LLM in one cell."""

    __tablename__ = "feedback_counts"
    __table_args__ = (
        CheckConstraint("cell >= 0", name="cell"),
        {"comment": "a fold over the feedback that counts, per map, LLM, source, epoch, day and cell"},
    )

    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"), primary_key=True)
    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="how often the LLM had been noticed to change",
    )
    day: Mapped[int] = mapped_column(
        Integer,
        primary_key=True,
        autoincrement=False,
        server_default="0",
        comment="of the decisions, in days since 1970: what is older is forgotten first",
    )
    cell: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="column of the map's centroids"
    )
    errors: Mapped[float] = mapped_column(comment="sum of errors, each a multiple of 2^-27")
    labels: Mapped[float] = mapped_column(comment="number of scores, in multiples of 2^-7")


class EarlierLabelsRow(Base):
    """What labels had said of an LLM by the time that it was noticed to change."""

    __tablename__ = "earlier_labels"
    __table_args__ = (
        {"comment": "error_counts as they stood when an LLM was noticed to change: they tell what it was"},
    )

    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"), primary_key=True)
    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    epoch: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="the one that began with the change"
    )
    cell: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="column of the map's centroids"
    )
    label_errors: Mapped[float]
    label_weight: Mapped[float]


class FeedbackScoreRow(Base):
    """One of the scores of a piece of feedback that was corrected: its first, or a correction."""

    __tablename__ = "feedback_scores"
    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        Index("ix_feedback_scores_received_at", "received_at"),
        {
            "comment": "every score of the feedback that was corrected; feedback shows the latest that is "
            "not left out; rows are added, never replaced"
        },
    )

    feedback_id: Mapped[str] = mapped_column(
        ForeignKey("feedback.feedback_id"), primary_key=True, comment="the piece that was corrected"
    )
    correction: Mapped[bool] = mapped_column(primary_key=True, comment="false: what the piece came with")
    event_time: Mapped[datetime] = mapped_column(primary_key=True, comment="as of feedback")
    score: Mapped[float] = mapped_column(primary_key=True, comment="as of feedback")
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    excluded: Mapped[bool] = mapped_column(server_default=false(), comment="left out with its source")


class FeedbackPlacementRow(Base):
    """Where a piece of feedback stands on a map that it did not come with."""

    __tablename__ = "feedback_placements"
    __table_args__ = (
        {"comment": "cells of feedback on maps fitted since, by embedding its prompt again; counted like it"},
    )

    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"), primary_key=True)
    feedback_id: Mapped[str] = mapped_column(ForeignKey("feedback.feedback_id"), primary_key=True)
    cells: Mapped[list[int]] = mapped_column(comment="as of feedback, of this map")
    shares: Mapped[list[int]] = mapped_column(server_default="{}", comment="as of feedback, of these cells")


class LearningRuleRow(Base):
    """How what was learned is forgotten."""

    __tablename__ = "learning_rules"
    __table_args__ = (
        CheckConstraint("id = 1", name="single_row"),
        CheckConstraint("half_life > 0", name="half_life"),
        {"comment": "a single row, or none: then all is as it is by default"},
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default="1")
    half_life: Mapped[float] = mapped_column(
        comment="pieces of feedback on an LLM that halve what older ones weigh; Infinity: none is forgotten"
    )


class LLMWatchRow(Base):
    """What the detector of changes remembers of an LLM."""

    __tablename__ = "llm_watches"
    __table_args__ = (
        CheckConstraint("standing IN ('steady', 'worse', 'returning')", name="standing"),
        {"comment": "how each LLM stands: whether its feedback says that it got worse, or better"},
    )

    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, server_default="0", comment="changes noticed so far")
    standing: Mapped[str] = mapped_column(server_default="steady")
    remaining: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="feedbacks until it is steady"
    )
    recent: Mapped[list[float]] = mapped_column(
        server_default="{}", comment="of each of its last feedbacks: error, predicted error, spread"
    )
    worse: Mapped[float] = mapped_column(server_default="0", comment="standard deviations towards worse")
    better: Mapped[float] = mapped_column(server_default="0", comment="standard deviations towards better")
    feedbacks: Mapped[float] = mapped_column(server_default="0", comment="seen since the last change")
    changed_at: Mapped[datetime | None]


class PromptMixRow(Base):
    """What routed prompts come to on a map: the window that fills, and what came of the last full one."""

    __tablename__ = "prompt_mixes"
    __table_args__ = ({"comment": "the window of routed prompts that fills, per map, and the last report"},)

    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"), primary_key=True)
    window: Mapped[dict[str, Any]] = mapped_column(comment="sums over its prompts so far")
    windows: Mapped[int] = mapped_column(Integer, server_default="0", comment="windows that were filled")
    report: Mapped[dict[str, Any] | None] = mapped_column(comment="of the last full window")
    reported_at: Mapped[datetime | None]


class JournalRow(Base):
    """Something that changed what is learned, by whose hand or by which evidence."""

    __tablename__ = "journal"
    __table_args__ = (
        Index("ix_journal_subject", "subject", "id"),
        {
            "comment": "what changed what is learned, by whose hand or by which evidence; rows are added, "
            "never changed"
        },
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    kind: Mapped[str] = mapped_column(comment="what happened, in a word or two")
    subject: Mapped[str] = mapped_column(comment="the LLM, source or map it happened to")
    body: Mapped[dict[str, Any]] = mapped_column(comment="what is known of it")
