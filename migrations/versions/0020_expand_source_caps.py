"""Expand: say of a source's cap that it holds for all its tenants together."""

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str = "0019"
branch_labels: None = None
depends_on: None = None

_BEFORE = "pieces taken of each of its tenants in any hour; null: all"
_AFTER = "pieces taken of it in any hour; null: all"


def upgrade() -> None:
    op.alter_column(
        "feedback_sources",
        "per_hour",
        existing_type=sa.BigInteger(),
        existing_nullable=True,
        comment=_AFTER,
        existing_comment=_BEFORE,
    )


def downgrade() -> None:
    op.alter_column(
        "feedback_sources",
        "per_hour",
        existing_type=sa.BigInteger(),
        existing_nullable=True,
        comment=_BEFORE,
        existing_comment=_AFTER,
    )
