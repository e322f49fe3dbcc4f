"""Expand: offline batches, their files and their journal."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0007"
down_revision: str = "0006"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    _create_files()
    _create_batches()
    _create_journal()


def downgrade() -> None:
    for table in ("batch_journal", "batches", "batch_files"):
        op.drop_table(table)


def _create_files() -> None:
    op.create_table(
        "batch_files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "tenant",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="whose it is; empty where nobody was named",
        ),
        sa.Column("filename", sa.Text(), nullable=False, comment="as it was given"),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(id) BETWEEN 1 AND 200", name=op.f("ck_batch_files_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch_files")),
        comment="files given to be run as batches",
    )
    op.create_index("ix_batch_files_sha256", "batch_files", ["sha256"], unique=False)


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Text(), server_default="validating", nullable=False),
        sa.Column(
            "paused",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="true: nothing more is dispatched",
        ),
        sa.Column("input_file", sa.Text(), nullable=False),
        sa.Column(
            "options",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="budget, policy, quality, order, metadata",
        ),
        sa.Column(
            "plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="the plan in force"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelling_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finalizing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True, comment="the status that finalizing leads to"),
        sa.Column("problem", sa.Text(), nullable=True, comment="why it failed, for people"),
        sa.Column(
            "total", sa.Integer(), server_default="0", nullable=False, comment="lines, bad ones included"
        ),
        sa.Column(
            "completed", sa.Integer(), server_default="0", nullable=False, comment="lines in the output file"
        ),
        sa.Column(
            "failed", sa.Integer(), server_default="0", nullable=False, comment="lines in the error file"
        ),
        sa.Column(
            "repeated_calls",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="calls begun in lives that ended before they could answer",
        ),
        sa.Column(
            "duplicated",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="second replies to a line, which were dropped",
        ),
        sa.Column(
            "spent_usd", sa.Numeric(), server_default="0", nullable=False, comment="sum of the replies' costs"
        ),
        sa.Column(
            "settled_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="what was reserved for the lines that are answered",
        ),
        sa.Column(
            "largest_overrun_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="by which one line cost more than was reserved for it, at most",
        ),
        sa.Column(
            "predicted_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="what the decisions on the answered lines expected",
        ),
        sa.Column(
            "llms",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="answered lines and USD of each LLM",
        ),
        sa.Column(
            "positions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="offsets of replies and lengths of files that belong together",
        ),
        sa.CheckConstraint(
            "status IN ('validating', 'failed', 'in_progress', 'finalizing', "
            "'completed', 'expired', 'cancelling', 'cancelled')",
            name=op.f("ck_batches_status"),
        ),
        sa.CheckConstraint("octet_length(id) BETWEEN 1 AND 200", name=op.f("ck_batches_id")),
        sa.ForeignKeyConstraint(
            ["input_file"], ["batch_files.id"], name=op.f("fk_batches_input_file_batch_files")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        comment="offline batches; the positions in files and topics are its worker's to move",
    )
    op.create_index(
        "ix_batches_open", "batches", ["id"], unique=False, postgresql_where=sa.text("ended_at IS NULL")
    )


def _create_journal() -> None:
    op.create_table(
        "batch_journal",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column(
            "facts", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.ForeignKeyConstraint(["batch"], ["batches.id"], name=op.f("fk_batch_journal_batch_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch_journal")),
        comment="what happened to batches; rows are added, never changed",
    )
    op.create_index("ix_batch_journal_batch", "batch_journal", ["batch", "id"], unique=False)
