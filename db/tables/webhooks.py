"""Webhooks and their deliveries."""

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

from db.tables.columns import at, metadata, owner_id, where

#: Where owners want to be told of what has ended.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    owner_id(),
    Column("url", Text, nullable=False),
    #: Words of db.webhooks.endpoints.EVENTS between spaces.
    Column("events", Text, nullable=False),
    Column("secret", Text, nullable=False),
    #: Signed with as well until `former_until`, while receivers change over.
    Column("former_secret", Text),
    at("former_until"),
    at("created_at", nullable=False),
    at("disabled_at"),
    Index("ix_webhooks_owner_id_id", "owner_id", "id"),
)

#: The outbox: written in the transaction that ends what it tells of. One row for each end.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    owner_id(),
    Column("webhook_id", Text, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False),
    #: The job or batch that has ended.
    Column("subject", Text, nullable=False),
    at("created_at", nullable=False),
    #: When it is to be tried next; NULL when it will not be.
    at("due_at"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    at("delivered_at"),
    Column("status", Integer),
    Column("problem", Text),
    Index("ix_deliveries_webhook_id_created_at", "webhook_id", "created_at"),
    Index("ix_deliveries_subject", "subject"),
    Index(
        "ix_deliveries_due",
        "due_at",
        **where("due_at IS NOT NULL"),
    ),
)
