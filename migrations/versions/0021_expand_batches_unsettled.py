"""Expand: what calls of a batch are taken to have cost whose usage nobody told."""

import sqlalchemy as sa
from alembic import op

revision: str = "0021"
down_revision: str = "0020"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "unsettled_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="estimate for calls whose usage nobody told; the budget counts it as spent",
        ),
    )


def downgrade() -> None:
    op.drop_column("batches", "unsettled_usd")
