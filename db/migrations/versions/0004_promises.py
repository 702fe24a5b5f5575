"""What promises need: evidence against items, shares and quotas of owners, scopes of keys"""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OPEN = "finished_at IS NULL"
RANKED_FIRST = "1970-01-01 00:00:00.000000"


def _at(name: str, nullable: bool = True, default: str | None = None) -> sa.Column:
    kind = db.clock.UtcDateTime(timezone=True)
    return sa.Column(name, kind, nullable=nullable, server_default=default)


def _open(name: str, columns: list[str], condition: str = OPEN) -> None:
    where = sa.text(condition)
    op.create_index(name, "jobs", columns, postgresql_where=where, sqlite_where=where)


def upgrade() -> None:
    op.add_column("items", sa.Column("deaths", sa.Integer(), nullable=False, server_default="0"))

    op.execute(
        "ALTER TABLE owners ADD COLUMN weight FLOAT DEFAULT 1 NOT NULL"
        " CONSTRAINT ck_owners_weight_is_positive CHECK (weight > 0)"
    )
    op.add_column("owners", _at("claimed_at"))
    for quota in ("max_queued_items", "max_job_items", "max_stored_bytes"):
        op.add_column("owners", sa.Column(quota, sa.BigInteger()))

    scopes = sa.Column("scopes", sa.Text(), nullable=False, server_default="submit read review")
    op.add_column("api_keys", scopes)
    op.add_column("api_keys", _at("last_used_at"))

    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", _at("rank_at", nullable=False, default=RANKED_FIRST))
    op.execute("UPDATE jobs SET rank_at = created_at")
    op.add_column("jobs", _at("expires_at"))
    op.drop_index("ix_jobs_open", "jobs")
    _open("ix_jobs_claimable", ["owner_id", "rank_at", "id"])
    _open("ix_jobs_expiring", ["expires_at"], f"{OPEN} AND expires_at IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_jobs_expiring", "jobs")
    op.drop_index("ix_jobs_claimable", "jobs")
    where = sa.text(OPEN)
    op.create_index(
        "ix_jobs_open", "jobs", ["model", "id"], postgresql_where=where, sqlite_where=where
    )
    for column in ("expires_at", "rank_at", "priority"):
        op.drop_column("jobs", column)
    for column in ("last_used_at", "scopes"):
        op.drop_column("api_keys", column)
    quotas = ("max_stored_bytes", "max_job_items", "max_queued_items")
    for column in (*quotas, "claimed_at", "weight"):
        op.drop_column("owners", column)
    op.drop_column("items", "deaths")
