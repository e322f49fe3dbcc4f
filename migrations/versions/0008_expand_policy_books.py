"""Expand: books of policies that spend a budget, kept as tenants' are, and what degraded prompts cost."""

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str = "0007"
branch_labels: None = None
depends_on: None = None

_SHARED = ("budget_grants", "budget_reservations")


def upgrade() -> None:
    for table in _SHARED:
        _open_to_policies(table)
    _create_policy_books()
    _create_policy_paces()
    op.add_column(
        "tenant_spend",
        sa.Column(
            "degraded",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="replies to prompts that the budget did not cover",
        ),
    )
    op.add_column(
        "tenant_spend",
        sa.Column(
            "degraded_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="what these cost, beyond the budget; part of settled_usd",
        ),
    )


def downgrade() -> None:
    op.drop_column("tenant_spend", "degraded_usd")
    op.drop_column("tenant_spend", "degraded")
    op.drop_table("policy_paces")
    op.drop_table("policy_books")
    for table in _SHARED:
        op.execute(f"DELETE FROM {table} WHERE policy IS NOT NULL")  # noqa: S608 - our own tables
        op.drop_constraint(op.f(f"ck_{table}_period"), table)
        op.drop_constraint(op.f(f"ck_{table}_account"), table)
        op.drop_column(table, "period_start")
        op.drop_column(table, "policy")
        op.alter_column(table, "tenant", nullable=False)


def _open_to_policies(table: str) -> None:
    op.alter_column(table, "tenant", nullable=True)
    op.add_column(table, sa.Column("policy", sa.Text(), nullable=True, comment="in place of a tenant"))
    comment = "of a policy: whose budget it is part of" if table == "budget_grants" else "of a policy"
    op.add_column(
        table, sa.Column("period_start", sa.DateTime(timezone=True), nullable=True, comment=comment)
    )
    # NOT VALID, then VALIDATE: the check of what is there takes no lock that a writer waits for.
    for name, condition in (
        ("account", "num_nonnulls(tenant, policy) = 1"),
        ("period", "num_nonnulls(policy, period_start) <> 1"),
    ):
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition, postgresql_not_valid=True)
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{name}")


def _create_policy_books() -> None:
    op.create_table(
        "policy_books",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column(
            "period_start",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="begin of a UTC hour or day",
        ),
        sa.Column(
            "replies", sa.BigInteger(), server_default="0", nullable=False, comment="error replies included"
        ),
        sa.Column(
            "settled_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="sum of the replies' costs",
        ),
        sa.Column(
            "expected_usd",
            sa.Numeric(),
            server_default="0",
            nullable=False,
            comment="what the decisions on these replies expected",
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
        sa.PrimaryKeyConstraint("policy", "period_start", name=op.f("pk_policy_books")),
        comment="spend of budget policies by period; every write adds",
    )


def _create_policy_paces() -> None:
    op.create_table(
        "policy_paces",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False, comment="the router"),
        sa.Column("prompts", sa.BigInteger(), nullable=False, comment="decided"),
        sa.Column("expected_usd", sa.Double(), nullable=False, comment="what the decisions on them expected"),
        sa.Column("error_per_usd", sa.Double(), nullable=False, comment="lambda of the last of them"),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("policy", "period_start", "slot", name=op.f("pk_policy_paces")),
        comment="how routers pace the budgets of policies, as far as they have told",
    )
