"""Reviews of alternative text: what people have made of drafts, and every step to it"""

import sqlalchemy as sa
from alembic import op

import db.sql.clock

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXTS = ("text", "long_description", "language")


def _at(name: str, nullable: bool = True) -> sa.Column:
    return sa.Column(name, db.sql.clock.UtcDateTime(timezone=True), nullable=nullable)


def _foreign(table: str, column: str, target: str, ondelete: str | None = None):
    name = f"fk_{table}_{column}_{target.partition('.')[0]}"
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete=ondelete)


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("item_id", BIG_ID, nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("page", sa.Text(), nullable=False),
        sa.Column("certainty", sa.Float(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("decided", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text()) for name in TEXTS),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("reviewer", sa.Text()),
        _at("reviewed_at"),
        sa.CheckConstraint(
            "state IN ('unreviewed', 'accepted', 'edited', 'decorative', 'rejected')",
            name=op.f("ck_reviews_state_is_known"),
        ),
        sa.CheckConstraint(
            "(decided = 0) = (state = 'unreviewed')",
            name=op.f("ck_reviews_unreviewed_is_undecided"),
        ),
        sa.CheckConstraint("decided IN (0, 1)", name=op.f("ck_reviews_decided_is_yes_or_no")),
        _foreign("reviews", "item_id", "items.id", "CASCADE"),
        _foreign("reviews", "owner_id", "owners.id"),
        _foreign("reviews", "job_id", "jobs.id"),
        sa.PrimaryKeyConstraint("item_id", name="pk_reviews"),
    )
    for name, column in (("page", "page"), ("certainty", "certainty")):
        columns = ["owner_id", "decided", column, "item_id"]
        op.create_index(f"ix_reviews_by_{name}", "reviews", columns)
    op.create_index("ix_reviews_job_id", "reviews", ["job_id", "item_id"])
    op.create_table(
        "review_steps",
        sa.Column("item_id", BIG_ID, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("owner_id", BIG_ID, nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text()) for name in TEXTS),
        sa.Column("undo_to", sa.Integer()),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text()),
        _at("created_at", nullable=False),
        sa.CheckConstraint(
            "action IN ('accept', 'edit', 'decorative', 'reject', 'undo')",
            name=op.f("ck_review_steps_action_is_known"),
        ),
        _foreign("review_steps", "item_id", "reviews.item_id", "CASCADE"),
        _foreign("review_steps", "owner_id", "owners.id"),
        sa.PrimaryKeyConstraint("item_id", "revision", name="pk_review_steps"),
    )


def downgrade() -> None:
    op.drop_table("review_steps")
    op.drop_table("reviews")
