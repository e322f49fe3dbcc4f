"""Expand: what a map was fitted on, and what the prompts routed by it come to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0016"
down_revision: str = "0015"
branch_labels: None = None
depends_on: None = None

_JSONB = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.add_column(
        "cluster_maps",
        sa.Column(
            "mix",
            _JSONB,
            nullable=True,
            comment="sums over the prompts it was fitted on: per cell, and of distances; null: not known",
        ),
    )
    op.create_table(
        "prompt_mixes",
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column("window", _JSONB, nullable=False, comment="sums over its prompts so far"),
        sa.Column(
            "windows", sa.Integer(), server_default="0", nullable=False, comment="windows that were filled"
        ),
        sa.Column("report", _JSONB, nullable=True, comment="of the last full window"),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["map_version"], ["cluster_maps.version"], name=op.f("fk_prompt_mixes_map_version_cluster_maps")
        ),
        sa.PrimaryKeyConstraint("map_version", name=op.f("pk_prompt_mixes")),
        comment="the window of routed prompts that fills, per map, and the last report",
    )


def downgrade() -> None:
    op.drop_table("prompt_mixes")
    op.drop_column("cluster_maps", "mix")
