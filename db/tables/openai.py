"""Files and batches of OpenAI's API."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)

from db.tables.columns import Json, at, metadata, owner_id, where

#: Files of OpenAI's interface, kept in the blob store under their ids.
files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    owner_id(),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    at("created_at", nullable=False),
    at("expires_at", index=True),
    Index("ix_files_owner_id_id", "owner_id", "id"),
)

#: Batches of OpenAI's interface: each becomes a job, or a list of what is wrong with its file.
batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    owner_id(),
    Column("job_id", Text, ForeignKey("jobs.id")),
    Column("model", Text),
    Column("input_file_id", Text, nullable=False),
    Column("input_bytes", BigInteger, nullable=False, server_default="0"),
    Column("endpoint", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("metadata", Json),
    Column("lines", BigInteger, nullable=False),
    #: What tells a request that is sent again; NULL once the same may be asked anew.
    Column("request_key", Text),
    Column("body_digest", Text),
    #: Mistakes of the input file; empty until it is checked, and NULL once there is a job.
    Column("errors", Json),
    Column("output_expires_seconds", Integer),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("usage", Json),
    at("created_at", nullable=False),
    at("expires_at", nullable=False),
    at("expired_at"),
    #: Of a batch that was cancelled before it had a job, which knows it otherwise.
    at("cancelled_at"),
    at("finalized_at"),
    Column("traceparent", Text),
    UniqueConstraint("owner_id", "request_key"),
    CheckConstraint("(errors IS NULL) = (job_id IS NOT NULL)", name="faultless_has_a_job"),
    Index("ix_batches_owner_id_id", "owner_id", "id"),
    Index("ix_batches_job_id", "job_id"),
    Index(
        "ix_batches_open",
        "id",
        **where("finalized_at IS NULL"),
    ),
)
