"""A batch is there before its input file is checked"""

import sqlalchemy as sa
from alembic import op

from db.tables.columns import at

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches", sa.Column("input_bytes", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column("batches", at("cancelled_at"))
    op.add_column("batches", sa.Column("traceparent", sa.Text()))


def downgrade() -> None:
    for name in ("traceparent", "cancelled_at", "input_bytes"):
        op.drop_column("batches", name)
