"""Contract: sums of feedback beside those of labels, which counts per source and epoch have taken over."""

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str = "0012"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    for constraint in ("feedback_errors", "feedback_weight"):
        op.drop_constraint(op.f(f"ck_error_counts_{constraint}"), "error_counts", type_="check")
    op.drop_column("error_counts", "feedback_errors")
    op.drop_column("error_counts", "feedback_weight")


def downgrade() -> None:
    op.add_column(
        "error_counts",
        sa.Column(
            "feedback_errors",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="from feedback on live traffic",
        ),
    )
    op.add_column(
        "error_counts",
        sa.Column(
            "feedback_weight",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="number of feedbacks, weighted",
        ),
    )
    op.create_check_constraint(
        op.f("ck_error_counts_feedback_errors"),
        "error_counts",
        "feedback_errors >= 0 AND feedback_errors <= feedback_weight",
    )
    op.create_check_constraint(
        op.f("ck_error_counts_feedback_weight"),
        "error_counts",
        "feedback_weight >= 0 AND feedback_weight < 'Infinity'",
    )
