"""Examples that a job's items share are brought in and stored once"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("examples", JSON, nullable=True))
    op.add_column("items", sa.Column("examples", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("items", "examples")
    op.drop_column("jobs", "examples")
