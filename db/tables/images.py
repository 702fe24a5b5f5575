"""Images in the blob store."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from db.sql.clock import UtcDateTime
from db.tables.columns import BigId, at, metadata, where

#: An image that a release from before retention has stored counts as used for ever.
USED_BY_OLD = "9999-12-31 00:00:00.000000"

#: Images in the blob store. `verdict` is NULL until an intake worker has checked the bytes.
blobs = Table(
    "blobs",
    metadata,
    Column("owner_id", BigId, ForeignKey("owners.id"), primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("verdict", Text),
    Column("verdict_message", Text),
    Column("format", Text),
    Column("width", Integer),
    Column("height", Integer),
    #: How often a child process died while it checked these bytes.
    Column("deaths", Integer, nullable=False, server_default="0"),
    at("created_at", nullable=False),
    #: When somebody last said that they use it, to within an hour.
    Column("used_at", UtcDateTime(), nullable=False, server_default=USED_BY_OLD),
    #: Marked as unused since then; see db/images/collection.py.
    at("collecting_at"),
    CheckConstraint("length(digest) = 64", name="digest_is_sha256"),
    CheckConstraint("verdict <> 'ok' OR width IS NOT NULL", name="ok_is_measured"),
    Index("ix_blobs_used_at", "used_at"),
    Index(
        "ix_blobs_collecting_at",
        "collecting_at",
        **where("collecting_at IS NOT NULL"),
    ),
)
