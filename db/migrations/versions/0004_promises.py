"""What promises need: evidence against items, shares and quotas of owners, scopes of keys"""

import sqlalchemy as sa
from alembic import op

import db.sql.clock

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = "finished_at IS NULL"
RANKED_FIRST = "1970-01-01 00:00:00.000000"
USED_BY_OLD = "9999-12-31 00:00:00.000000"


def _at(name: str, nullable: bool = True, default: str | None = None) -> sa.Column:
    kind = db.sql.clock.UtcDateTime(timezone=True)
    return sa.Column(name, kind, nullable=nullable, server_default=default)


def _open(name: str, columns: list[str], condition: str = OPEN) -> None:
    where = sa.text(condition)
    op.create_index(name, "jobs", columns, postgresql_where=where, sqlite_where=where)


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    if postgres:  # in the order in which workers lock, and however long it takes
        op.execute("SET LOCAL statement_timeout = 0")
        op.execute("LOCK TABLE jobs, items, owners, blobs, batches, api_keys")
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

    op.add_column("jobs", _at("deleted_at"))
    ended = "finished_at IS NOT NULL AND deleted_at IS NULL"
    _open("ix_jobs_finished", ["finished_at"], ended)
    _open("ix_jobs_deleted", ["id"], "deleted_at IS NOT NULL")
    # Of what is there now nobody knows when it was used last: it counts as used today.
    if postgres:
        op.execute(
            "ALTER TABLE blobs ADD COLUMN used_at TIMESTAMPTZ NOT NULL DEFAULT statement_timestamp()"
        )
        op.alter_column("blobs", "used_at", server_default=USED_BY_OLD)
    else:
        op.add_column("blobs", _at("used_at", nullable=False, default=USED_BY_OLD))
        op.execute("UPDATE blobs SET used_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    op.create_index("ix_blobs_used_at", "blobs", ["used_at"])
    op.add_column("blobs", _at("collecting_at"))
    marked = sa.text("collecting_at IS NOT NULL")
    op.create_index(
        "ix_blobs_collecting_at",
        "blobs",
        ["collecting_at"],
        postgresql_where=marked,
        sqlite_where=marked,
    )
    op.create_index("ix_batches_job_id", "batches", ["job_id"])

    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("former_secret", sa.Text()),
        _at("former_until"),
        _at("created_at", nullable=False),
        _at("disabled_at"),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_webhooks_owner_id_owners"),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_owner_id_id", "webhooks", ["owner_id", "id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        _at("created_at", nullable=False),
        _at("due_at"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        _at("delivered_at"),
        sa.Column("status", sa.Integer()),
        sa.Column("problem", sa.Text()),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_deliveries_owner_id_owners"),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name="fk_deliveries_webhook_id_webhooks",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_subject", "deliveries", ["subject"])
    of_webhook = ["webhook_id", "created_at"]
    op.create_index("ix_deliveries_webhook_id_created_at", "deliveries", of_webhook)
    due = sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_deliveries_due", "deliveries", ["due_at"], postgresql_where=due, sqlite_where=due
    )


def downgrade() -> None:
    op.drop_table("deliveries")
    op.drop_table("webhooks")
    op.drop_index("ix_batches_job_id", "batches")
    op.drop_index("ix_blobs_collecting_at", "blobs")
    op.drop_index("ix_blobs_used_at", "blobs")
    for column in ("collecting_at", "used_at"):
        op.drop_column("blobs", column)
    op.drop_index("ix_jobs_deleted", "jobs")
    op.drop_index("ix_jobs_finished", "jobs")
    op.drop_column("jobs", "deleted_at")
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
