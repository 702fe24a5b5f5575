"""What owners have used."""

from sqlalchemy import BigInteger, Column, Date, Float, ForeignKey, Index, Table, Text

from db.tables.columns import BigId, metadata

#: One row for each owner, model, day (in UTC) and session, so that no two workers write the same
#: row; upkeep folds those of past days and dead sessions into one of the session "".
usage = Table(
    "usage",
    metadata,
    Column("owner_id", BigId, ForeignKey("owners.id"), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("items", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    #: Items that were answered from the answer cache; their tokens are not counted.
    Column("cached", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("device_seconds", Float, nullable=False),
    Index("ix_usage_day", "day"),
)

#: Bytes that each owner had stored on each day (in UTC), as upkeep saw it last.
stored = Table(
    "stored",
    metadata,
    Column("owner_id", BigId, ForeignKey("owners.id"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("stored_bytes", BigInteger, nullable=False),
    Index("ix_stored_day", "day"),
)
