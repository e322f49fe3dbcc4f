"""Expand: the last feedback of each LLM, which the detector of changes holds against predictions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0018"
down_revision: str = "0017"
branch_labels: None = None
depends_on: None = None

_BEFORE = "Shiryaev-Roberts"


def upgrade() -> None:
    op.add_column(
        "llm_watches",
        sa.Column(
            "recent",
            postgresql.ARRAY(sa.Double()),
            server_default="{}",
            nullable=False,
            comment="of each of its last feedbacks: error, predicted error, spread",
        ),
    )
    for column in ("worse", "better"):
        op.alter_column(
            "llm_watches",
            column,
            existing_type=sa.Double(),
            existing_server_default=sa.text("'0'::double precision"),
            existing_nullable=False,
            existing_comment=_BEFORE,
            comment=f"standard deviations towards {column}",
        )


def downgrade() -> None:
    for column in ("worse", "better"):
        op.alter_column(
            "llm_watches",
            column,
            existing_type=sa.Double(),
            existing_server_default=sa.text("'0'::double precision"),
            existing_nullable=False,
            existing_comment=f"standard deviations towards {column}",
            comment=_BEFORE,
        )
    op.drop_column("llm_watches", "recent")
