"""Decisions about drafts of alternative text."""

from sqlalchemy import CheckConstraint, Column, Float, ForeignKey, Index, Integer, Table, Text

from db.tables.columns import BigId, at, metadata, owner_id

#: What people have made of drafts of alternative text: one row for each item that is one.
reviews = Table(
    "reviews",
    metadata,
    Column("item_id", BigId, ForeignKey("items.id", ondelete="CASCADE"), primary_key=True),
    owner_id(),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("page", Text, nullable=False),
    #: From 0 to 1; the least certain are to be looked at first.
    Column("certainty", Float, nullable=False),
    Column("state", Text, nullable=False),
    #: 0 while undecided, so that undecided reviews sort first.
    Column("decided", Integer, nullable=False),
    Column("text", Text),
    Column("long_description", Text),
    Column("language", Text),
    #: Grows with each step; a decision names the revision that the reviewer saw.
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("reviewer", Text),
    at("reviewed_at"),
    CheckConstraint(
        "state IN ('unreviewed', 'accepted', 'edited', 'decorative', 'rejected')",
        name="state_is_known",
    ),
    CheckConstraint("(decided = 0) = (state = 'unreviewed')", name="unreviewed_is_undecided"),
    CheckConstraint("decided IN (0, 1)", name="decided_is_yes_or_no"),
    Index("ix_reviews_by_page", "owner_id", "decided", "page", "item_id"),
    Index("ix_reviews_by_certainty", "owner_id", "decided", "certainty", "item_id"),
    Index("ix_reviews_job_id", "job_id", "item_id"),
)

#: Who decided what and when, and what undoing it goes back to.
review_steps = Table(
    "review_steps",
    metadata,
    Column("item_id", BigId, ForeignKey("reviews.item_id", ondelete="CASCADE"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    owner_id(),
    Column("action", Text, nullable=False),
    #: What it has led to.
    Column("state", Text, nullable=False),
    Column("text", Text),
    Column("long_description", Text),
    Column("language", Text),
    #: The revision that undoing leads back to; NULL where there is nothing to undo.
    Column("undo_to", Integer),
    Column("reviewer", Text, nullable=False),
    #: Whom the client named, if the key says who it is.
    Column("stated_reviewer", Text),
    Column("key_id", Text),
    at("created_at", nullable=False),
    CheckConstraint(
        "action IN ('accept', 'edit', 'decorative', 'reject', 'undo')", name="action_is_known"
    ),
)
