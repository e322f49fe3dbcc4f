"""Expand: tenants, what they were lent, have reserved and have spent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str = "0001"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    _create_tenants()
    _create_tenant_spend()
    _create_budget_grants()
    _create_budget_reservations()
    _create_usage_entries()


def downgrade() -> None:
    for table in ("usage_entries", "budget_reservations", "budget_grants", "tenant_spend", "tenants"):
        op.drop_table(table)


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("usd_per_day", sa.Double(), nullable=True, comment="budget of a UTC day; null: none"),
        sa.Column("usd_per_month", sa.Double(), nullable=True, comment="budget of a UTC month; null: none"),
        sa.Column(
            "policies",
            postgresql.ARRAY(sa.Text()),
            nullable=True,
            comment="policies it may ask for; null: any",
        ),
        sa.Column("llms", postgresql.ARRAY(sa.Text()), nullable=True, comment="LLMs it may use; null: any"),
        sa.Column("default_policy", sa.Text(), nullable=True, comment="of its prompts that name none"),
        sa.Column(
            "priority",
            sa.Double(),
            server_default="1",
            nullable=False,
            comment="weight of its prompts in a lane",
        ),
        sa.Column(
            "at_limit",
            sa.Text(),
            server_default="error",
            nullable=False,
            comment="what happens to prompts beyond the budget",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("at_limit IN ('error', 'degrade')", name=op.f("ck_tenants_at_limit")),
        sa.CheckConstraint("priority > 0 AND priority < 'Infinity'", name=op.f("ck_tenants_priority")),
        sa.CheckConstraint(
            "usd_per_day >= 0 AND usd_per_day < 'Infinity'", name=op.f("ck_tenants_usd_per_day")
        ),
        sa.CheckConstraint(
            "usd_per_month >= 0 AND usd_per_month < 'Infinity'", name=op.f("ck_tenants_usd_per_month")
        ),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 200", name=op.f("ck_tenants_name")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
        comment="who pays for prompts; what is spent is kept apart, and outlives this row",
    )


def _create_tenant_spend() -> None:
    op.create_table(
        "tenant_spend",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC day on which the prompts were decided"),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column(
            "replies", sa.BigInteger(), server_default="0", nullable=False, comment="error replies included"
        ),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False, comment="error replies"),
        sa.Column(
            "untold",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="answers of which the endpoint did not tell the usage",
        ),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "settled_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="sum of the replies' costs",
        ),
        sa.Column(
            "reserved_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="of decisions whose usage is not known yet",
        ),
        sa.Column(
            "untold_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="was reserved for answers whose cost is not known",
        ),
        sa.PrimaryKeyConstraint("tenant", "day", "llm", name=op.f("pk_tenant_spend")),
        comment="spend by tenant, UTC day of the decision and LLM; every write adds",
    )


def _create_budget_grants() -> None:
    op.create_table(
        "budget_grants",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC day whose budget it is part of"),
        sa.Column("slot", sa.Text(), nullable=False, comment="the router it was lent to"),
        sa.Column("usd", sa.Numeric(), nullable=False),
        sa.Column(
            "drawn_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="reserved by committed decisions",
        ),
        sa.Column("granted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "expires_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="nothing is reserved from it afterwards",
        ),
        sa.Column(
            "released_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the rest went back to the budget",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budget_grants")),
        comment="parts of budgets lent to routers; what they did not reserve comes back",
    )
    op.create_index(
        "ix_budget_grants_open",
        "budget_grants",
        ["tenant"],
        unique=False,
        postgresql_where=sa.text("released_at IS NULL"),
    )


def _create_budget_reservations() -> None:
    op.create_table(
        "budget_reservations",
        sa.Column(
            "decision",
            sa.Uuid(),
            nullable=False,
            comment="time of the decision, 4 bytes, and a hash of its id, 12",
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.Column("usd", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("decision", name=op.f("pk_budget_reservations")),
        comment="reservations of decisions in flight; settled ones are gone",
    )


def _create_usage_entries() -> None:
    op.create_table(
        "usage_entries",
        sa.Column(
            "entry",
            sa.Uuid(),
            nullable=False,
            comment="time of the decision, 4 bytes, and a hash of what tells entries apart, 12",
        ),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_usage_entries")),
        comment="what was booked of the usage topic, as long as that topic keeps it",
    )
