"""Expand: input tokens as estimated and as billed, and what calls cost at each version of a price."""

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str = "0009"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "input_counts",
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("replies", sa.Double(), nullable=False),
        sa.Column(
            "estimated",
            sa.Double(),
            nullable=False,
            comment="sum of input tokens as estimated before the call",
        ),
        sa.Column(
            "billed", sa.Double(), nullable=False, comment="sum of input tokens as the endpoint told them"
        ),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_input_counts_llm_llms")),
        sa.PrimaryKeyConstraint("llm", name=op.f("pk_input_counts")),
        comment="input tokens per LLM, as estimated and as billed; every write adds",
    )
    _create_call_costs()


def downgrade() -> None:
    for table in ("call_costs", "input_counts"):
        op.drop_table(table)


def _create_call_costs() -> None:
    op.create_table(
        "call_costs",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC day on which the prompts were decided"),
        sa.Column("llm", sa.Text(), nullable=False, comment="that was called, fallbacks included"),
        sa.Column(
            "price_version",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="of the price that they were charged by",
        ),
        sa.Column("calls", sa.BigInteger(), nullable=False, comment="of which the endpoint told the usage"),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column(
            "cached_tokens",
            sa.BigInteger(),
            nullable=False,
            comment="those of input_tokens found in a cache",
        ),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(), nullable=False),
        sa.Column(
            "predicted_usd",
            sa.Numeric(),
            nullable=False,
            comment="what decisions had predicted of the calls that answered them at once",
        ),
        sa.Column(
            "predicted_cost_usd",
            sa.Numeric(),
            nullable=False,
            comment="what these calls cost, of cost_usd",
        ),
        sa.PrimaryKeyConstraint("tenant", "day", "llm", "price_version", name=op.f("pk_call_costs")),
        comment="what calls used and cost by tenant, UTC day of the decision, LLM and price version",
    )
