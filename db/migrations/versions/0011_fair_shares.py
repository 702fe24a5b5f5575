"""Chat completions go first within the share of their owner; what is due at once asks no clock"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _index_chats(*columns: str) -> None:
    listed = sa.text("finished_at IS NULL AND origin = 'chat'")
    op.drop_index("ix_jobs_chats", "jobs")
    op.create_index(
        "ix_jobs_chats", "jobs", list(columns), postgresql_where=listed, sqlite_where=listed
    )


def _index_due(*columns: str) -> None:
    queued = sa.text("state = 'queued'")
    op.drop_index("ix_items_due", "items")
    op.create_index(
        "ix_items_due", "items", list(columns), postgresql_where=queued, sqlite_where=queued
    )


def _lock() -> None:
    """Wait for both tables at once, in the order of the workers, and then as long as it takes."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")
        op.execute("LOCK TABLE jobs, items")


def upgrade() -> None:
    _lock()
    op.add_column(
        "items", sa.Column("delayed", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    # Whatever waits now may be a retry.
    op.execute("UPDATE items SET delayed = true WHERE state = 'queued' AND tries + rescues > 0")
    _index_due("job_id", "stage", "delayed", "due_at", "id")
    _index_chats("owner_id", "rank_at", "id")


def downgrade() -> None:
    _lock()
    _index_due("job_id", "stage", "due_at", "id")
    op.drop_column("items", "delayed")
    _index_chats("id")
