"""Expand: the tables of the first version."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    _create_llms()
    _create_prices()
    _create_cluster_maps()
    _create_error_counts()
    _create_error_rate_versions()
    _create_feedback()
    _create_policies()
    _create_routing_state()


def downgrade() -> None:
    for table in (
        "routing_state",
        "policies",
        "feedback",
        "error_rate_versions",
        "error_counts",
        "cluster_maps",
        "prices",
        "llms",
    ):
        op.drop_table(table)


def _create_llms() -> None:
    op.create_table(
        "llms",
        sa.Column("name", sa.Text(), nullable=False, comment="what callers and decisions call it"),
        sa.Column(
            "base_url", sa.Text(), nullable=False, comment="OpenAI-compatible endpoint, without credentials"
        ),
        sa.Column("provider_model", sa.Text(), nullable=False, comment="the model's name at that endpoint"),
        sa.Column(
            "api_key_ref",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="where the key is, e.g. env:OPENAI_API_KEY, never a key; empty: none is needed",
        ),
        sa.Column("context_length", sa.Integer(), nullable=True, comment="tokens; null where unknown"),
        sa.Column(
            "capabilities",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="what it can do, e.g. tools, vision, json",
        ),
        sa.Column(
            "simulated",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="true where its answers are played, not generated",
        ),
        sa.Column(
            "state",
            sa.Text(),
            server_default="active",
            nullable=False,
            comment="where it stands in its life cycle",
        ),
        sa.Column(
            "expected_output_tokens", sa.Double(), nullable=False, comment="mean length of a reply, in tokens"
        ),
        sa.Column(
            "registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name=op.f("ck_llms_retired_at")),
        sa.CheckConstraint(
            "api_key_ref ~ '^(env:[A-Za-z_][A-Za-z0-9_]*)?$'", name=op.f("ck_llms_api_key_ref")
        ),
        sa.CheckConstraint(
            "expected_output_tokens >= 0 AND expected_output_tokens < 'Infinity'",
            name=op.f("ck_llms_expected_output_tokens"),
        ),
        sa.CheckConstraint(
            "state IN ('probe', 'shadow', 'canary', 'active', 'draining', 'retired')",
            name=op.f("ck_llms_state"),
        ),
        sa.CheckConstraint("context_length > 0", name=op.f("ck_llms_context_length")),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 200", name=op.f("ck_llms_name")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_llms")),
        comment="LLMs that prompts may be routed to, and where each is served",
    )


def _create_prices() -> None:
    op.create_table(
        "prices",
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column(
            "version",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="counts over all LLMs, so that one number names the prices of a moment",
        ),
        sa.Column("input_usd_per_mtok", sa.Double(), nullable=False, comment="USD per million input tokens"),
        sa.Column(
            "output_usd_per_mtok", sa.Double(), nullable=False, comment="USD per million output tokens"
        ),
        sa.Column("fixed_usd", sa.Double(), server_default="0", nullable=False, comment="USD per call"),
        sa.Column("valid_from", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("fixed_usd >= 0 AND fixed_usd < 'Infinity'", name=op.f("ck_prices_fixed_usd")),
        sa.CheckConstraint(
            "input_usd_per_mtok >= 0 AND input_usd_per_mtok < 'Infinity'",
            name=op.f("ck_prices_input_usd_per_mtok"),
        ),
        sa.CheckConstraint(
            "output_usd_per_mtok >= 0 AND output_usd_per_mtok < 'Infinity'",
            name=op.f("ck_prices_output_usd_per_mtok"),
        ),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_prices_llm_llms")),
        sa.PrimaryKeyConstraint("llm", "version", name=op.f("pk_prices")),
        comment="prices of LLMs; rows are added, never changed",
    )


def _create_cluster_maps() -> None:
    op.create_table(
        "cluster_maps",
        sa.Column("version", sa.Text(), nullable=False, comment="hash of the map's content, 16 hex digits"),
        sa.Column(
            "map", sa.LargeBinary(), nullable=False, comment="ClusterMap.to_bytes: npz with a JSON header"
        ),
        sa.Column(
            "prior", sa.LargeBinary(), nullable=False, comment="PoolPrior.to_bytes, frozen with the map"
        ),
        sa.Column(
            "fingerprint",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the embedder whose vectors the map reads",
        ),
        sa.Column(
            "active",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="true for the one that routers use",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("version ~ '^[0-9a-f]{16}$'", name=op.f("ck_cluster_maps_version")),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_cluster_maps")),
        comment="cluster maps; immutable but for which one is active",
    )
    op.create_index(
        "uq_cluster_maps_active", "cluster_maps", ["active"], unique=True, postgresql_where=sa.text("active")
    )


def _create_error_counts() -> None:
    op.create_table(
        "error_counts",
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("cell", sa.Integer(), nullable=False, comment="column of the map's centroids"),
        sa.Column(
            "label_errors", sa.Double(), server_default="0", nullable=False, comment="from labelled prompts"
        ),
        sa.Column(
            "label_weight",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="number of labels, weighted",
        ),
        sa.Column(
            "feedback_errors",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="from feedback on live traffic",
        ),
        sa.Column(
            "feedback_weight",
            sa.Double(),
            server_default="0",
            nullable=False,
            comment="number of feedbacks, weighted",
        ),
        sa.CheckConstraint(
            "feedback_weight >= 0 AND feedback_weight < 'Infinity'",
            name=op.f("ck_error_counts_feedback_weight"),
        ),
        sa.CheckConstraint(
            "label_weight >= 0 AND label_weight < 'Infinity'", name=op.f("ck_error_counts_label_weight")
        ),
        sa.CheckConstraint("cell >= 0", name=op.f("ck_error_counts_cell")),
        sa.CheckConstraint(
            "feedback_errors >= 0 AND feedback_errors <= feedback_weight",
            name=op.f("ck_error_counts_feedback_errors"),
        ),
        sa.CheckConstraint(
            "label_errors >= 0 AND label_errors <= label_weight", name=op.f("ck_error_counts_label_errors")
        ),
        sa.ForeignKeyConstraint(["llm"], ["llms.name"], name=op.f("fk_error_counts_llm_llms")),
        sa.ForeignKeyConstraint(
            ["map_version"], ["cluster_maps.version"], name=op.f("fk_error_counts_map_version_cluster_maps")
        ),
        sa.PrimaryKeyConstraint("map_version", "llm", "cell", name=op.f("pk_error_counts")),
        comment="evidence per map, LLM and cell; every write adds",
    )


def _create_error_rate_versions() -> None:
    op.create_table(
        "error_rate_versions",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column(
            "rates",
            sa.LargeBinary(),
            nullable=False,
            comment="npy, float64, one row per cell, one column per LLM",
        ),
        sa.Column("llms", postgresql.ARRAY(sa.Text()), nullable=False, comment="names of the columns"),
        sa.Column("reason", sa.Text(), nullable=False, comment="what made this version, for people"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["map_version"],
            ["cluster_maps.version"],
            name=op.f("fk_error_rate_versions_map_version_cluster_maps"),
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_error_rate_versions")),
        comment="error rates as routers used them; the highest version of the active map is in force",
    )
    op.create_index(
        "ix_error_rate_versions_map_version", "error_rate_versions", ["map_version", "version"], unique=False
    )


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column(
            "feedback_id", sa.Text(), nullable=False, comment="the sender's; sent twice, it is kept once"
        ),
        sa.Column("decision_id", sa.Text(), nullable=True, comment="the signed token it quoted"),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("map_version", sa.Text(), nullable=False),
        sa.Column(
            "cells",
            postgresql.ARRAY(sa.Integer()),
            nullable=False,
            comment="the prompt's cell in each resolution of that map",
        ),
        sa.Column("score", sa.Double(), nullable=False, comment="quality, 0 wrong to 1 right"),
        sa.Column("weight", sa.Double(), nullable=False, comment="trust in the source"),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column(
            "event_time",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when it was given, by the sender's clock",
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "disposition", sa.Text(), server_default="counted", nullable=False, comment="what became of it"
        ),
        sa.CheckConstraint(
            "disposition IN ('counted', 'refused', 'excluded', 'replaced')",
            name=op.f("ck_feedback_disposition"),
        ),
        sa.CheckConstraint("weight >= 0 AND weight < 'Infinity'", name=op.f("ck_feedback_weight")),
        sa.CheckConstraint(
            "octet_length(feedback_id) BETWEEN 1 AND 200", name=op.f("ck_feedback_feedback_id")
        ),
        sa.CheckConstraint("score BETWEEN 0 AND 1", name=op.f("ck_feedback_score")),
        sa.PrimaryKeyConstraint("feedback_id", name=op.f("pk_feedback")),
        sa.UniqueConstraint("decision_id", "source", name=op.f("uq_feedback_decision_id")),
        comment="feedback as received, once per feedback id and once per decision and source",
    )


def _create_policies() -> None:
    op.create_table(
        "policies",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False, comment="1, 2, 3 per name"),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(body) = 'object'", name=op.f("ck_policies_body")),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 200", name=op.f("ck_policies_name")),
        sa.CheckConstraint("version > 0", name=op.f("ck_policies_version")),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_policies")),
        comment="declarative policies; rows are added, never changed",
    )


def _create_routing_state() -> None:
    op.create_table(
        "routing_state",
        sa.Column("id", sa.SmallInteger(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_routing_state_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routing_state")),
        comment="a single row; its version moves with every change that routers must see",
    )
    op.execute("INSERT INTO routing_state (id, version) VALUES (1, 0)")
