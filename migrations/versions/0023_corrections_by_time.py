"""Expand: find the corrections of the last hour, which count towards the caps of their sources."""

from alembic import op

revision: str = "0023"
down_revision: str = "0022"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_index("ix_feedback_scores_received_at", "feedback_scores", ["received_at"])


def downgrade() -> None:
    op.drop_index("ix_feedback_scores_received_at", table_name="feedback_scores")
