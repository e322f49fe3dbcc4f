"""Expand: lengths and seconds of answers, as counted and as published."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str = "0002"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    _create_length_counts()
    _create_latency_counts()
    _create_length_versions()


def downgrade() -> None:
    for table in ("length_versions", "latency_counts", "length_counts"):
        op.drop_table(table)


def _create_length_counts() -> None:
    op.create_table(
        "length_counts",
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("cell", sa.Integer(), nullable=False, comment="column of the map's centroids"),
        sa.Column("replies", sa.Double(), nullable=False),
        sa.Column("y", sa.Double(), nullable=False),
        sa.Column("yy", sa.Double(), nullable=False),
        sa.Column("z", sa.Double(), nullable=False),
        sa.Column("zz", sa.Double(), nullable=False),
        sa.Column("yz", sa.Double(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False, comment="sum of output tokens"),
        sa.CheckConstraint("cell >= 0", name=op.f("ck_length_counts_cell")),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_length_counts_llm_llms")),
        sa.ForeignKeyConstraint(
            ["map_version"], ["cluster_maps.version"], name=op.f("fk_length_counts_map_version_cluster_maps")
        ),
        sa.PrimaryKeyConstraint("map_version", "llm", "cell", name=op.f("pk_length_counts")),
        comment="lengths of answers per map, LLM and cell; every write adds",
    )


def _create_latency_counts() -> None:
    op.create_table(
        "latency_counts",
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("replies", sa.Double(), nullable=False),
        sa.Column("y", sa.Double(), nullable=False),
        sa.Column("yy", sa.Double(), nullable=False),
        sa.Column("z", sa.Double(), nullable=False),
        sa.Column("zz", sa.Double(), nullable=False),
        sa.Column("yz", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_latency_counts_llm_llms")),
        sa.PrimaryKeyConstraint("llm", name=op.f("pk_latency_counts")),
        comment="seconds of answers per LLM; every write adds",
    )


def _create_length_versions() -> None:
    op.create_table(
        "length_versions",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column(
            "llms", postgresql.ARRAY(sa.Text()), nullable=False, comment="names of the models' columns"
        ),
        sa.Column(
            "replies",
            postgresql.ARRAY(sa.Double()),
            nullable=False,
            comment="replies of each LLM that they were learned from",
        ),
        sa.Column("models", sa.LargeBinary(), nullable=False, comment="npz of the arrays of both models"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["map_version"],
            ["cluster_maps.version"],
            name=op.f("fk_length_versions_map_version_cluster_maps"),
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_length_versions")),
        comment="how long answers and calls are; the highest version of the active map is in force",
    )
    op.create_index(
        "ix_length_versions_map_version", "length_versions", ["map_version", "version"], unique=False
    )
