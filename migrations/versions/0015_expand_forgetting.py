"""Expand: the day of each piece of feedback, and how fast older ones are forgotten.

Counts of feedback are told apart by day from here on, so a learner of the version before, which knows no day,
is refused by Postgres and waits with nothing committed until it is replaced; routers and executors go on.
What was counted before has day 0: it is older than everything else.
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str = "0014"
branch_labels: None = None
depends_on: None = None

_KEY = ["map_version", "llm", "source", "epoch", "day", "cell"]
_COMMENT = "a fold over the feedback that counts, per map, LLM, source, epoch and cell; unweighted"


def upgrade() -> None:
    op.add_column(
        "feedback",
        sa.Column(
            "day",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="of the decision, or of its arrival, in days since 1970",
        ),
    )
    op.add_column(
        "feedback_counts",
        sa.Column(
            "day",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="of the decisions, in days since 1970: what is older is forgotten first",
        ),
    )
    op.drop_constraint(op.f("pk_feedback_counts"), "feedback_counts", type_="primary")
    op.create_primary_key(op.f("pk_feedback_counts"), "feedback_counts", _KEY)
    _comment("sum of errors, each a multiple of 2^-27", "number of scores, in multiples of 2^-7")
    op.create_table_comment(
        "feedback_counts", "a fold over the feedback that counts, per map, LLM, source, epoch, day and cell"
    )
    op.create_table(
        "learning_rules",
        sa.Column("id", sa.SmallInteger(), server_default="1", autoincrement=False, nullable=False),
        sa.Column(
            "half_life",
            sa.Double(),
            nullable=False,
            comment="pieces of feedback on an LLM that halve what older ones weigh; Infinity: none is "
            "forgotten",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_learning_rules_single_row")),
        sa.CheckConstraint("half_life > 0", name=op.f("ck_learning_rules_half_life")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_learning_rules")),
        comment="a single row, or none: then all is as it is by default",
    )


def downgrade() -> None:
    op.drop_table("learning_rules")
    op.drop_constraint(op.f("pk_feedback_counts"), "feedback_counts", type_="primary")
    op.execute(
        "CREATE TEMPORARY TABLE folded ON COMMIT DROP AS SELECT map_version, llm, source, epoch, cell, "
        "sum(errors) AS errors, sum(labels) AS labels FROM feedback_counts "
        "GROUP BY map_version, llm, source, epoch, cell"
    )
    op.execute("DELETE FROM feedback_counts")
    op.drop_column("feedback_counts", "day")
    op.execute(
        "INSERT INTO feedback_counts (map_version, llm, source, epoch, cell, errors, labels) "
        "SELECT * FROM folded"
    )
    op.create_primary_key(
        op.f("pk_feedback_counts"), "feedback_counts", [column for column in _KEY if column != "day"]
    )
    _comment("sum of errors, each a multiple of 2^-20", "number of scores")
    op.create_table_comment("feedback_counts", _COMMENT)
    op.drop_column("feedback", "day")


def _comment(errors: str, labels: str) -> None:
    op.alter_column("feedback_counts", "errors", comment=errors)
    op.alter_column("feedback_counts", "labels", comment=labels)
