"""What operators and owners have done that cannot be undone, or changes what others may do."""

from sqlalchemy import Column, Table, Text

from db.tables.columns import BigId, Json, at, metadata

#: No foreign keys: an entry outlives whatever it names.
audit = Table(
    "audit",
    metadata,
    Column("id", BigId, primary_key=True),
    at("created_at", nullable=False),
    #: The holder of the key, or who else it was; and the key, if there was one.
    Column("actor", Text, nullable=False),
    Column("key_id", Text),
    #: Name of the owner that it concerns.
    Column("owner", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Json, nullable=False),
)
