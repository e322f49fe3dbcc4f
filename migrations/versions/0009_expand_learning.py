"""Expand: sources of feedback and their counts, watches over LLMs, held error rates, the journal."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0009"
down_revision: str = "0008"
branch_labels: None = None
depends_on: None = None

_KINDS = "'human', 'judge', 'checker', 'implicit'"


def upgrade() -> None:
    _create_sources()
    _create_counts()
    _create_watches()
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="what happened, in a word or two"),
        sa.Column("subject", sa.Text(), nullable=False, comment="the LLM, source or map it happened to"),
        sa.Column(
            "body", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="what is known of it"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
        comment="what changed what is learned, by whose hand or by which evidence; rows are added, never "
        "changed",
    )
    op.create_index("ix_journal_subject", "journal", ["subject", "id"])
    op.add_column(
        "error_rate_versions",
        sa.Column(
            "held",
            sa.BigInteger(),
            nullable=True,
            comment="the version put in force again: learned rates wait until it is released",
        ),
    )
    op.add_column(
        "llms",
        sa.Column(
            "renewed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when this registration took over the name of a retired one; null: it is the first",
        ),
    )
    op.add_column(
        "feedback",
        sa.Column(
            "correction",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="whether its score replaced an earlier one",
        ),
    )
    op.add_column(
        "feedback",
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="how often the LLM had been noticed to change",
        ),
    )
    op.create_index("ix_feedback_source", "feedback", ["source", "received_at"])


def downgrade() -> None:
    op.drop_index("ix_feedback_source", "feedback")
    op.drop_column("feedback", "epoch")
    op.drop_column("feedback", "correction")
    op.drop_column("llms", "renewed_at")
    op.drop_column("error_rate_versions", "held")
    op.drop_table("journal")
    op.drop_table("llm_watches")
    op.drop_table("feedback_counts")
    op.drop_table("feedback_sources")


def _create_sources() -> None:
    op.create_table(
        "feedback_sources",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="human, judge, checker or implicit"),
        sa.Column("weight", sa.Double(), nullable=True, comment="of its labels; null: that of its kind"),
        sa.Column(
            "per_hour",
            sa.BigInteger(),
            nullable=True,
            comment="pieces taken of each of its tenants in any hour; null: all",
        ),
        sa.Column(
            "excluded_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="what it gave since then counts nothing; null: all counts",
        ),
        sa.Column(
            "trust", sa.Double(), server_default="1", nullable=False, comment="as last estimated; 0: flagged"
        ),
        sa.Column("bias", sa.Double(), server_default="0", nullable=False, comment="as last estimated"),
        sa.Column(
            "compared",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="its labels that others' could be held against",
        ),
        sa.Column("first_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 200", name=op.f("ck_feedback_sources_name")),
        sa.CheckConstraint(f"kind IN ({_KINDS})", name=op.f("ck_feedback_sources_kind")),
        sa.CheckConstraint("weight >= 0 AND weight < 'Infinity'", name=op.f("ck_feedback_sources_weight")),
        sa.CheckConstraint("per_hour >= 0", name=op.f("ck_feedback_sources_per_hour")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_feedback_sources")),
        comment="who gives feedback, how far each is believed, and what of it is left out",
    )
    op.execute(
        "INSERT INTO feedback_sources (name, kind) SELECT DISTINCT source, CASE "
        "WHEN split_part(source, ':', 1) IN ('human', 'judge', 'checker', 'implicit') "
        "THEN split_part(source, ':', 1) ELSE 'implicit' END FROM feedback "
        "WHERE octet_length(source) BETWEEN 1 AND 200"
    )


def _create_counts() -> None:
    op.create_table(
        "feedback_counts",
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "epoch", sa.Integer(), nullable=False, comment="how often the LLM had been noticed to change"
        ),
        sa.Column("cell", sa.Integer(), nullable=False, comment="column of the map's centroids"),
        sa.Column("errors", sa.Double(), nullable=False, comment="sum of errors, each a multiple of 2^-20"),
        sa.Column("labels", sa.Double(), nullable=False, comment="number of scores"),
        sa.CheckConstraint("cell >= 0", name=op.f("ck_feedback_counts_cell")),
        sa.ForeignKeyConstraint(
            ["map_version"],
            ["cluster_maps.version"],
            name=op.f("fk_feedback_counts_map_version_cluster_maps"),
        ),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_feedback_counts_llm_llms")),
        sa.PrimaryKeyConstraint(
            "map_version", "llm", "source", "epoch", "cell", name=op.f("pk_feedback_counts")
        ),
        comment="a fold over the feedback that counts, per map, LLM, source, epoch and cell; unweighted",
    )
    op.execute(
        "INSERT INTO feedback_counts (map_version, llm, source, epoch, cell, errors, labels) "
        "SELECT map_version, llm, source, 0, cell, sum(round((1 - score) * 1048576)) / 1048576, count(*) "
        "FROM feedback, unnest(cells) AS cell WHERE disposition = 'counted' "
        "AND map_version IN (SELECT version FROM cluster_maps) AND llm IN (SELECT name FROM llms) "
        "GROUP BY map_version, llm, source, cell"
    )


def _create_watches() -> None:
    op.create_table(
        "llm_watches",
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column(
            "epoch", sa.Integer(), server_default="0", nullable=False, comment="changes noticed so far"
        ),
        sa.Column("standing", sa.Text(), server_default="steady", nullable=False),
        sa.Column(
            "remaining",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="feedbacks until it is steady",
        ),
        sa.Column("worse", sa.Double(), server_default="0", nullable=False, comment="Shiryaev-Roberts"),
        sa.Column("better", sa.Double(), server_default="0", nullable=False, comment="Shiryaev-Roberts"),
        sa.Column(
            "feedbacks", sa.Double(), server_default="0", nullable=False, comment="seen since the last change"
        ),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "standing IN ('steady', 'worse', 'returning')", name=op.f("ck_llm_watches_standing")
        ),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_llm_watches_llm_llms")),
        sa.PrimaryKeyConstraint("llm", name=op.f("pk_llm_watches")),
        comment="how each LLM stands: whether its feedback says that it got worse, or better",
    )
