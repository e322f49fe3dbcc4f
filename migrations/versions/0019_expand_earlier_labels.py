"""Expand: labels as they stood when an LLM was noticed to change, in place of scaling them for ever."""

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str = "0018"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "earlier_labels",
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column(
            "epoch",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="the one that began with the change",
        ),
        sa.Column(
            "cell",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="column of the map's centroids",
        ),
        sa.Column("label_errors", sa.Double(), nullable=False),
        sa.Column("label_weight", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_earlier_labels_llm_llms")),
        sa.ForeignKeyConstraint(
            ["map_version"],
            ["cluster_maps.version"],
            name=op.f("fk_earlier_labels_map_version_cluster_maps"),
        ),
        sa.PrimaryKeyConstraint("map_version", "llm", "epoch", "cell", name=op.f("pk_earlier_labels")),
        comment="error_counts as they stood when an LLM was noticed to change: they tell what it was",
    )


def downgrade() -> None:
    op.drop_table("earlier_labels")
