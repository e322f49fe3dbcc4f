"""Expand: limits per minute of LLMs, keys in files, answers that may be given again."""

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str = "0004"
branch_labels: None = None
depends_on: None = None

_AMOUNT = "{0} >= 0 AND {0} < 'Infinity'"
_LIMITS = {
    "requests_per_minute": "calls that its provider allows in any minute, over all executors; null: no limit",
    "tokens_per_minute": "tokens, of prompts and answers, that its provider allows in any minute; "
    "null: no limit",
}
_ENV_ONLY = "^(env:[A-Za-z_][A-Za-z0-9_]*)?$"
_ENV_OR_FILE = "^(env:[A-Za-z_][A-Za-z0-9_]*|file:/[A-Za-z0-9_./-]+)?$"


def upgrade() -> None:
    for name, comment in _LIMITS.items():
        op.add_column("llms", sa.Column(name, sa.Double(), nullable=True, comment=comment))
        op.create_check_constraint(op.f(f"ck_llms_{name}"), "llms", _AMOUNT.format(name))
    _allow_references(_ENV_OR_FILE)
    op.create_table(
        "cached_answers",
        sa.Column(
            "key",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 over tenant, LLM, its endpoint and the body in normal form",
        ),
        sa.Column("answer", sa.LargeBinary(), comment="null while somebody is calling for it"),
        sa.Column(
            "claimed_until",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="a claim that was not kept by then is void",
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(key) = 32", name=op.f("ck_cached_answers_key")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_cached_answers")),
        comment="answers that callers let be kept; rows that expired are deleted now and then",
    )
    op.create_index("ix_cached_answers_expires_at", "cached_answers", ["expires_at"], unique=False)


def downgrade() -> None:
    op.drop_table("cached_answers")
    op.execute("UPDATE llms SET api_key_ref = '' WHERE api_key_ref LIKE 'file:%'")
    _allow_references(_ENV_ONLY)
    for name in _LIMITS:
        op.drop_constraint(op.f(f"ck_llms_{name}"), "llms", type_="check")
        op.drop_column("llms", name)


def _allow_references(pattern: str) -> None:
    """The table is small: checking its rows again holds nobody up."""
    op.drop_constraint(op.f("ck_llms_api_key_ref"), "llms", type_="check")
    op.create_check_constraint(op.f("ck_llms_api_key_ref"), "llms", f"api_key_ref ~ '{pattern}'")
