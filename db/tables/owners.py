"""Owners, their keys and what they may read."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Float, Table, Text, UniqueConstraint

from db.tables.columns import BigId, at, metadata, owner_id

owners = Table(
    "owners",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    at("created_at", nullable=False),
    #: Share of the workers, beside those of others who want some; see db/queue/claims.py.
    Column("weight", Float, nullable=False, server_default="1"),
    #: When something of this owner was last claimed.
    at("claimed_at"),
    #: Quotas; NULL leaves it to the settings.
    Column("max_queued_items", BigInteger),
    Column("max_job_items", BigInteger),
    Column("max_stored_bytes", BigInteger),
    CheckConstraint("weight > 0", name="weight_is_positive"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    owner_id(),
    Column("secret_hash", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    #: The person or program that has the key, for the audit and for reviews.
    Column("holder", Text, nullable=False, server_default=""),
    at("created_at", nullable=False),
    at("expires_at"),
    at("revoked_at"),
    #: What it may do, words of db.owners.Scope separated by spaces.
    Column("scopes", Text, nullable=False, server_default="submit read review"),
    at("last_used_at"),
)

#: Buckets and prefixes from which an owner's `s3://` references may be read.
grants = Table(
    "grants",
    metadata,
    Column("id", BigId, primary_key=True),
    owner_id(),
    Column("bucket", Text, nullable=False),
    Column("prefix", Text, nullable=False, server_default=""),
    UniqueConstraint("owner_id", "bucket", "prefix"),
)
