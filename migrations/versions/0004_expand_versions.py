"""Expand: prices of cached input, deviations of error rates, and every version of what is known of an LLM."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str = "0003"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.add_column(
        "prices",
        sa.Column(
            "cached_input_usd_per_mtok",
            sa.Double(),
            nullable=True,
            comment="USD per million input tokens found in the LLM's cache; null: as any other",
        ),
    )
    op.create_check_constraint(
        op.f("ck_prices_cached_input_usd_per_mtok"),
        "prices",
        "cached_input_usd_per_mtok >= 0 AND cached_input_usd_per_mtok < 'Infinity'",
    )
    op.add_column(
        "error_rate_versions",
        sa.Column(
            "deviations",
            sa.LargeBinary(),
            nullable=True,
            comment="npy like rates: their standard deviations; null where they were not estimated",
        ),
    )
    _create_llm_versions()


def downgrade() -> None:
    op.drop_table("llm_versions")
    op.drop_column("error_rate_versions", "deviations")
    op.drop_constraint(op.f("ck_prices_cached_input_usd_per_mtok"), "prices")
    op.drop_column("prices", "cached_input_usd_per_mtok")


def _create_llm_versions() -> None:
    op.create_table(
        "llm_versions",
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column(
            "version",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="counts over all LLMs, so that one number names what was known of each at a moment",
        ),
        sa.Column(
            "facts",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="columns of llms, as set",
        ),
        sa.Column("valid_from", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_llm_versions_llm_llms")),
        sa.PrimaryKeyConstraint("llm", "version", name=op.f("pk_llm_versions")),
        comment="what was known of LLMs, and where each was served; rows are added, never changed",
    )
    op.execute(
        "INSERT INTO llm_versions (llm, facts) SELECT name, jsonb_build_object('base_url', base_url, "
        "'provider_model', provider_model, 'api_key_ref', api_key_ref, 'context_length', context_length, "
        "'capabilities', to_jsonb(capabilities), 'simulated', simulated, 'expected_output_tokens', "
        "expected_output_tokens) FROM llms ORDER BY name"
    )
