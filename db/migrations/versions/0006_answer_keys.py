"""What an item asks for as one digest, so that the same is answered once"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("answer_key", sa.Text()))
    given = sa.text("answer_key IS NOT NULL")
    op.create_index(
        "ix_items_answer_key",
        "items",
        ["owner_id", "answer_key", "state", "id"],
        postgresql_where=given,
        sqlite_where=given,
    )


def downgrade() -> None:
    op.drop_index("ix_items_answer_key", "items")
    op.drop_column("items", "answer_key")
