"""Expand: every score of the feedback that was corrected, so that corrections can be left out again."""

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str = "0021"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "feedback_scores",
        sa.Column("feedback_id", sa.Text(), nullable=False, comment="the piece that was corrected"),
        sa.Column("correction", sa.Boolean(), nullable=False, comment="false: what the piece came with"),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False, comment="as of feedback"),
        sa.Column("score", sa.Double(), nullable=False, comment="as of feedback"),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "excluded",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="left out with its source",
        ),
        sa.CheckConstraint("score BETWEEN 0 AND 1", name=op.f("ck_feedback_scores_score")),
        sa.ForeignKeyConstraint(
            ["feedback_id"],
            ["feedback.feedback_id"],
            name=op.f("fk_feedback_scores_feedback_id_feedback"),
        ),
        sa.PrimaryKeyConstraint(
            "feedback_id", "correction", "event_time", "score", name=op.f("pk_feedback_scores")
        ),
        comment="every score of the feedback that was corrected; feedback shows the latest that is not left "
        "out; rows are added, never replaced",
    )


def downgrade() -> None:
    op.drop_table("feedback_scores")
