"""Expand: the shares of a piece of feedback that several cells of a soft map count."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0014"
down_revision: str = "0013"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.add_column(
        "feedback",
        sa.Column(
            "shares",
            postgresql.ARRAY(sa.Integer()),
            server_default="{}",
            nullable=False,
            comment="128ths that each of the cells counts of it; empty: each all of it",
        ),
    )
    op.alter_column(
        "feedback",
        "cells",
        comment="the prompt's cells of that map that it counts in",
        existing_comment="the prompt's cell in each resolution of that map",
    )


def downgrade() -> None:
    op.alter_column(
        "feedback",
        "cells",
        comment="the prompt's cell in each resolution of that map",
        existing_comment="the prompt's cells of that map that it counts in",
    )
    op.drop_column("feedback", "shares")
