"""Expand: the journal of LLMs, and how much tenants let be explored with their prompts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0011"
down_revision: str = "0010"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "llm_journal",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True, comment="null: it was not there, or retired"),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column(
            "canary_share",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="of a canary: the share of prompts that it is offered to",
        ),
        sa.Column(
            "cautious",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="whether its error rates stand at the upper end of their interval",
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False, comment="why, for people"),
        sa.Column(
            "evidence",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="figures it was taken on",
        ),
        sa.CheckConstraint("canary_share BETWEEN 0 AND 1", name=op.f("ck_llm_journal_canary_share")),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_llm_journal_llm_llms")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_llm_journal")),
        comment="steps of LLMs' life cycles; rows are added, never changed, the last of an LLM holds",
    )
    op.create_index("ix_llm_journal_llm", "llm_journal", ["llm", "id"])
    op.add_column(
        "tenants",
        sa.Column(
            "exploration_share",
            sa.Double(),
            nullable=True,
            comment="least share of its prompts that is explored with; 0: none ever; null: as policies say",
        ),
    )
    op.create_check_constraint(
        op.f("ck_tenants_exploration_share"), "tenants", "exploration_share BETWEEN 0 AND 1"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_tenants_exploration_share"), "tenants")
    op.drop_column("tenants", "exploration_share")
    op.drop_table("llm_journal")
