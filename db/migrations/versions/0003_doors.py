"""More doors: files and batches, conversations somebody waits for, and buckets to be listed"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

import db.sql.clock

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
)
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UNWRITTEN = "finished_at IS NOT NULL AND results_key IS NULL"
UNLISTED = "source IS NOT NULL AND sealed_at IS NULL"
OPEN = "finalized_at IS NULL"
CHATS = "finished_at IS NULL AND origin = 'chat'"


def _partial(name: str, table: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, ["id"], postgresql_where=where, sqlite_where=where)


def _at(name: str, nullable: bool = True) -> sa.Column:
    return sa.Column(name, db.sql.clock.UtcDateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    # As text, because Alembic would rebuild the whole table for a CHECK on SQLite.
    op.execute(
        "ALTER TABLE jobs ADD COLUMN origin TEXT DEFAULT 'job' NOT NULL"
        " CONSTRAINT ck_jobs_origin_is_known CHECK (origin IN ('job', 'batch', 'chat'))"
    )
    op.add_column("jobs", sa.Column("source", sa.Text()))
    op.add_column("jobs", sa.Column("source_after", sa.Text()))
    op.add_column("jobs", _at("listed_at"))
    op.drop_index("ix_jobs_unwritten", "jobs")
    _partial("ix_jobs_unwritten", "jobs", f"{UNWRITTEN} AND origin = 'job'")
    _partial("ix_jobs_unlisted", "jobs", UNLISTED)
    _partial("ix_jobs_chats", "jobs", CHATS)
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _at("created_at", nullable=False),
        _at("expires_at"),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_files_owner_id_owners"),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_owner_id_id", "files", ["owner_id", "id"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("job_id", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("metadata", JSON),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("request_key", sa.Text()),
        sa.Column("body_digest", sa.Text()),
        sa.Column("errors", JSON),
        sa.Column("output_expires_seconds", sa.Integer()),
        sa.Column("output_file_id", sa.Text()),
        sa.Column("error_file_id", sa.Text()),
        sa.Column("usage", JSON),
        _at("created_at", nullable=False),
        _at("expires_at", nullable=False),
        _at("expired_at"),
        _at("finalized_at"),
        sa.CheckConstraint(
            "(errors IS NULL) = (job_id IS NOT NULL)", name="ck_batches_faultless_has_a_job"
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_batches_owner_id_owners"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_batches_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.UniqueConstraint("owner_id", "request_key", name="uq_batches_owner_id_request_key"),
    )
    op.create_index("ix_batches_owner_id_id", "batches", ["owner_id", "id"])
    _partial("ix_batches_open", "batches", OPEN)


def downgrade() -> None:
    op.drop_table("batches")
    op.drop_table("files")
    op.drop_index("ix_jobs_chats", "jobs")
    op.drop_index("ix_jobs_unlisted", "jobs")
    op.drop_index("ix_jobs_unwritten", "jobs")
    _partial("ix_jobs_unwritten", "jobs", UNWRITTEN)
    for column in ("listed_at", "source_after", "source", "origin"):
        op.drop_column("jobs", column)
