"""Contract: what budget policies had lent to routers, which the grants and the policies' books have now."""

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str = "0011"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.drop_table("policy_spend")


def downgrade() -> None:
    op.create_table(
        "policy_spend",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False, comment="the router"),
        sa.Column("lent_usd", sa.Double(), nullable=False),
        sa.Column(
            "prompts", sa.BigInteger(), nullable=False, comment="decided, as far as the router has told"
        ),
        sa.CheckConstraint("lent_usd >= 0 AND lent_usd < 'Infinity'", name=op.f("ck_policy_spend_lent_usd")),
        sa.PrimaryKeyConstraint("policy", "period_start", "slot", name=op.f("pk_policy_spend")),
        comment="what budget policies have lent to routers; the sums of a period stay within its budget",
    )
