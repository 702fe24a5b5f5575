"""Chat completions go first within the share of their owner"""

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


def upgrade() -> None:
    _index_chats("owner_id", "rank_at", "id")


def downgrade() -> None:
    _index_chats("id")
