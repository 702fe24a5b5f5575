"""Workers of one job no longer wait for each other: reserved result numbers, no key to sessions"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_KEY = "fk_items_session_id_sessions"


def _has_the_key_dropped() -> bool:
    """SQLite keeps the key: dropping it would copy the table, and one writer waits for nobody."""
    return op.get_bind().dialect.name == "postgresql"


def upgrade() -> None:
    op.create_table(
        "reservations",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("first_number", sa.BigInteger(), nullable=False),
        sa.Column(
            "owner_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.ForeignKey("owners.id", name="fk_reservations_owner_id_owners"),
            nullable=False,
        ),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "first_number", name="pk_reservations"),
    )
    if _has_the_key_dropped():
        op.drop_constraint(_KEY, "items", type_="foreignkey")


def downgrade() -> None:
    if _has_the_key_dropped():
        op.create_foreign_key(_KEY, "items", "sessions", ["session_id"], ["id"])
    op.drop_table("reservations")
