"""Issues of answers, what a job has used, stored bytes by day, and trace contexts"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None



def _job_columns() -> list[sa.Column]:
    counts = ("answers_with_issues", "cached", "images", "prompt_tokens", "completion_tokens")
    return [
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
            for name in counts
        ),
        sa.Column("device_seconds", sa.Float(), server_default="0"),
        sa.Column(
            "issue_counts",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
            server_default="{}",
        ),
        sa.Column("pause_on_issues", sa.Float()),
        sa.Column("pause_reason", sa.Text()),
        sa.Column("traceparent", sa.Text()),
    ]


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":  # both at once, in the order of the workers
        op.execute("SET LOCAL statement_timeout = 0")
        op.execute("LOCK TABLE jobs, items")
    op.add_column("items", sa.Column("issues", sa.Text()))
    for column in _job_columns():
        op.add_column("jobs", column)
    op.execute("UPDATE jobs SET device_seconds = NULL WHERE started_at IS NOT NULL")
    listed = sa.text("issues IS NOT NULL")
    op.create_index(
        "ix_items_issues",
        "items",
        ["job_id", "result_number"],
        postgresql_where=listed,
        sqlite_where=listed,
    )
    op.create_table(
        "stored",
        sa.Column(
            "owner_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.ForeignKey("owners.id", name="fk_stored_owner_id_owners"),
            nullable=False,
        ),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "day", name="pk_stored"),
    )
    op.create_index("ix_stored_day", "stored", ["day"])


def downgrade() -> None:
    op.drop_table("stored")
    op.drop_index("ix_items_issues", "items")
    op.drop_column("items", "issues")
    for column in reversed(_job_columns()):
        op.drop_column("jobs", column.name)
