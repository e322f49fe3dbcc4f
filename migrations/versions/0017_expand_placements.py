"""Expand: where feedback stands on maps that were fitted after it came."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0017"
down_revision: str = "0016"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "feedback_placements",
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column("feedback_id", sa.Text(), nullable=False),
        sa.Column(
            "cells",
            postgresql.ARRAY(sa.Integer()),
            nullable=False,
            comment="as of feedback, of this map",
        ),
        sa.Column(
            "shares",
            postgresql.ARRAY(sa.Integer()),
            server_default="{}",
            nullable=False,
            comment="as of feedback, of these cells",
        ),
        sa.ForeignKeyConstraint(
            ["map_version"],
            ["cluster_maps.version"],
            name=op.f("fk_feedback_placements_map_version_cluster_maps"),
        ),
        sa.ForeignKeyConstraint(
            ["feedback_id"],
            ["feedback.feedback_id"],
            name=op.f("fk_feedback_placements_feedback_id_feedback"),
        ),
        sa.PrimaryKeyConstraint("map_version", "feedback_id", name=op.f("pk_feedback_placements")),
        comment="cells of feedback on maps fitted since, by embedding its prompt again; counted like it",
    )


def downgrade() -> None:
    op.drop_table("feedback_placements")
