"""The tables. Every CHECK has a name, and every row of a tenant has its `owner_id`.

    owners ─┬─ api_keys          models   (what engines have offered)
            ├─ grants            sessions (workers alive or lately so)
            ├─ blobs
            ├─ files
            ├─ webhooks ─ deliveries
            ├─ batches ──▶ jobs
            └─ jobs ── items ──▶ sessions
                         └─ reviews ─ review_steps

Only db/ imports this module.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from db.clock import UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: SQLite numbers rows by itself only when the key is exactly INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

#: Rank of a job that a release from before ranks has inserted.
RANKED_FIRST = "1970-01-01 00:00:00.000000"
#: An image that a release from before retention has stored counts as used for ever.
USED_BY_OLD = "9999-12-31 00:00:00.000000"


def _at(name: str, *, nullable: bool = True, index: bool = False) -> Column[object]:
    return Column(name, UtcDateTime(), nullable=nullable, index=index)


def _owner() -> Column[object]:
    return Column("owner_id", BigId, ForeignKey("owners.id"), nullable=False)


owners = Table(
    "owners",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    _at("created_at", nullable=False),
    #: Share of the workers, beside those of others who want some; see db/claims.py.
    Column("weight", Float, nullable=False, server_default="1"),
    #: When something of this owner was last claimed.
    _at("claimed_at"),
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
    _owner(),
    Column("secret_hash", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    _at("created_at", nullable=False),
    _at("expires_at"),
    _at("revoked_at"),
    #: What it may do, words of db.owners.Scope separated by spaces.
    Column("scopes", Text, nullable=False, server_default="submit read review"),
    _at("last_used_at"),
)

#: Buckets and prefixes from which an owner's `s3://` references may be read.
grants = Table(
    "grants",
    metadata,
    Column("id", BigId, primary_key=True),
    _owner(),
    Column("bucket", Text, nullable=False),
    Column("prefix", Text, nullable=False, server_default=""),
    UniqueConstraint("owner_id", "bucket", "prefix"),
)

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
    _at("created_at", nullable=False),
    #: When somebody last said that they use it, to within an hour.
    Column("used_at", UtcDateTime(), nullable=False, server_default=USED_BY_OLD),
    #: Marked as unused since then; see db/retention.py.
    _at("collecting_at"),
    CheckConstraint("length(digest) = 64", name="digest_is_sha256"),
    CheckConstraint("verdict <> 'ok' OR width IS NOT NULL", name="ok_is_measured"),
    Index("ix_blobs_used_at", "used_at"),
    Index(
        "ix_blobs_collecting_at",
        "collecting_at",
        postgresql_where=text("collecting_at IS NOT NULL"),
        sqlite_where=text("collecting_at IS NOT NULL"),
    ),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    _owner(),
    Column("model", Text, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("defaults", Json, nullable=False),
    #: Through which door it came; see db.states.Origin.
    Column("origin", Text, nullable=False, server_default="job"),
    Column("idempotency_key", Text),
    Column("body_digest", Text),
    #: Key of the spooled submission, while there is something left to import from it.
    Column("spool_key", Text),
    Column("spool_lines", BigInteger, nullable=False, server_default="0"),
    #: Lines and bytes of the spool that are imported; 0 bytes too if an older release began it.
    Column("spool_offset", BigInteger, nullable=False, server_default="0"),
    Column("spool_bytes", BigInteger, nullable=False, server_default="0"),
    #: `s3://bucket/prefix`, if the items are the images found there; the last key so listed; and
    #: when there were no more.
    Column("source", Text),
    Column("source_after", Text),
    _at("listed_at"),
    Column("results_key", Text),
    Column("priority", Integer, nullable=False, server_default="0"),
    #: `created_at` less the head start of its priority: what an owner's jobs are claimed in.
    Column("rank_at", UtcDateTime(), nullable=False, server_default=RANKED_FIRST),
    #: Items that are not running by then are cancelled.
    _at("expires_at"),
    #: References of the images of the examples in `defaults`, once intake has them.
    Column("examples", Json),
    _at("created_at", nullable=False),
    _at("sealed_at"),
    _at("started_at"),
    _at("paused_at"),
    _at("cancelled_at"),
    _at("finished_at"),
    #: Nobody sees it any more, and upkeep removes it.
    _at("deleted_at"),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("queued", BigInteger, nullable=False, server_default="0"),
    Column("running", BigInteger, nullable=False, server_default="0"),
    Column("succeeded", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
    Column("cancelled", BigInteger, nullable=False, server_default="0"),
    #: The highest `items.result_number` handed out.
    Column("results", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("owner_id", "idempotency_key"),
    CheckConstraint("origin IN ('job', 'batch', 'chat')", name="origin_is_known"),
    CheckConstraint(
        "total = queued + running + succeeded + failed + cancelled", name="counts_add_up"
    ),
    CheckConstraint(
        "queued >= 0 AND running >= 0 AND succeeded >= 0 AND failed >= 0 AND cancelled >= 0",
        name="counts_are_not_negative",
    ),
    CheckConstraint(
        "finished_at IS NULL OR (sealed_at IS NOT NULL AND queued = 0 AND running = 0)",
        name="finished_has_nothing_open",
    ),
    Index("ix_jobs_owner_id_id", "owner_id", "id"),
    Index(
        "ix_jobs_claimable",
        "owner_id",
        "rank_at",
        "id",
        postgresql_where=text("finished_at IS NULL"),
        sqlite_where=text("finished_at IS NULL"),
    ),
    Index(
        "ix_jobs_expiring",
        "expires_at",
        postgresql_where=text("finished_at IS NULL AND expires_at IS NOT NULL"),
        sqlite_where=text("finished_at IS NULL AND expires_at IS NOT NULL"),
    ),
    Index(
        "ix_jobs_finished",
        "finished_at",
        postgresql_where=text("finished_at IS NOT NULL AND deleted_at IS NULL"),
        sqlite_where=text("finished_at IS NOT NULL AND deleted_at IS NULL"),
    ),
    Index(
        "ix_jobs_deleted",
        "id",
        postgresql_where=text("deleted_at IS NOT NULL"),
        sqlite_where=text("deleted_at IS NOT NULL"),
    ),
    Index(
        "ix_jobs_spooled",
        "id",
        postgresql_where=text("spool_key IS NOT NULL"),
        sqlite_where=text("spool_key IS NOT NULL"),
    ),
    Index(
        "ix_jobs_unlisted",
        "id",
        postgresql_where=text("source IS NOT NULL AND sealed_at IS NULL"),
        sqlite_where=text("source IS NOT NULL AND sealed_at IS NULL"),
    ),
    Index(
        "ix_jobs_chats",
        "id",
        postgresql_where=text("finished_at IS NULL AND origin = 'chat'"),
        sqlite_where=text("finished_at IS NULL AND origin = 'chat'"),
    ),
    Index(
        "ix_jobs_unwritten",
        "id",
        postgresql_where=text("finished_at IS NOT NULL AND results_key IS NULL AND origin = 'job'"),
        sqlite_where=text("finished_at IS NOT NULL AND results_key IS NULL AND origin = 'job'"),
    ),
)

items = Table(
    "items",
    metadata,
    Column("id", BigId, primary_key=True),
    _owner(),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("custom_id", Text),
    #: What the submission says of this item; the job's defaults are laid under it.
    Column("request", Json, nullable=False),
    #: Digest of kind and options after the overlay: equal ones may share a batch.
    Column("options_digest", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("state", Text, nullable=False),
    _at("due_at", nullable=False),
    #: The fencing token: grows with each claim and never falls.
    Column("attempt", Integer, nullable=False, server_default="0"),
    #: Attempts charged against the limit.
    Column("tries", Integer, nullable=False, server_default="0"),
    #: How often its worker died, or gave up, while it had the item.
    Column("rescues", Integer, nullable=False, server_default="0"),
    #: How often the watchdog had to end a worker that ran it alone.
    Column("deaths", Integer, nullable=False, server_default="0"),
    Column("session_id", Text, ForeignKey("sessions.id")),
    #: References of the images after intake, in the order of the request.
    Column("images", Json),
    #: The same for examples of its own; those that it shares are the job's.
    Column("examples", Json),
    _at("claimed_at"),
    _at("finished_at"),
    Column("result_number", BigInteger),
    Column("answer", Json),
    Column("error_code", Text),
    Column("error_message", Text),
    #: Equal for items of an owner that ask for the same; noted when an engine has it.
    Column("answer_key", Text),
    UniqueConstraint("job_id", "ordinal"),
    CheckConstraint("stage IN ('intake', 'generate')", name="stage_is_known"),
    CheckConstraint(
        "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')",
        name="state_is_known",
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))",
        name="final_is_finished",
    ),
    CheckConstraint(
        "(result_number IS NOT NULL) = (finished_at IS NOT NULL)", name="final_is_numbered"
    ),
    CheckConstraint("(session_id IS NOT NULL) = (state = 'running')", name="running_is_leased"),
    CheckConstraint("(answer IS NOT NULL) = (state = 'succeeded')", name="succeeded_is_answered"),
    CheckConstraint("(error_code IS NOT NULL) = (state = 'failed')", name="failed_has_a_code"),
    Index(
        "ix_items_due",
        "job_id",
        "stage",
        "due_at",
        "id",
        postgresql_where=text("state = 'queued'"),
        sqlite_where=text("state = 'queued'"),
    ),
    Index(
        "ix_items_answer_key",
        "owner_id",
        "answer_key",
        "state",
        "id",
        postgresql_where=text("answer_key IS NOT NULL"),
        sqlite_where=text("answer_key IS NOT NULL"),
    ),
    Index(
        "ix_items_leased",
        "session_id",
        "id",
        postgresql_where=text("state = 'running'"),
        sqlite_where=text("state = 'running'"),
    ),
    Index(
        "ix_items_results",
        "job_id",
        "result_number",
        unique=True,
        postgresql_where=text("result_number IS NOT NULL"),
        sqlite_where=text("result_number IS NOT NULL"),
    ),
)

#: What people have made of drafts of alternative text: one row for each item that is one.
reviews = Table(
    "reviews",
    metadata,
    Column("item_id", BigId, ForeignKey("items.id", ondelete="CASCADE"), primary_key=True),
    _owner(),
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
    _at("reviewed_at"),
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
    _owner(),
    Column("action", Text, nullable=False),
    #: What it has led to.
    Column("state", Text, nullable=False),
    Column("text", Text),
    Column("long_description", Text),
    Column("language", Text),
    #: The revision that undoing leads back to; NULL where there is nothing to undo.
    Column("undo_to", Integer),
    Column("reviewer", Text, nullable=False),
    Column("key_id", Text),
    _at("created_at", nullable=False),
    CheckConstraint(
        "action IN ('accept', 'edit', 'decorative', 'reject', 'undo')", name="action_is_known"
    ),
)

#: Files of OpenAI's interface, kept in the blob store under their ids.
files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    _owner(),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    _at("created_at", nullable=False),
    _at("expires_at", index=True),
    Index("ix_files_owner_id_id", "owner_id", "id"),
)

#: Batches of OpenAI's interface: a job, or a list of what is wrong with its input file.
batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    _owner(),
    Column("job_id", Text, ForeignKey("jobs.id")),
    Column("model", Text),
    Column("input_file_id", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("metadata", Json),
    Column("lines", BigInteger, nullable=False),
    #: What tells a request that is sent again; NULL once the same may be asked anew.
    Column("request_key", Text),
    Column("body_digest", Text),
    Column("errors", Json),
    Column("output_expires_seconds", Integer),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("usage", Json),
    _at("created_at", nullable=False),
    _at("expires_at", nullable=False),
    _at("expired_at"),
    _at("finalized_at"),
    UniqueConstraint("owner_id", "request_key"),
    CheckConstraint("(errors IS NULL) = (job_id IS NOT NULL)", name="faultless_has_a_job"),
    Index("ix_batches_owner_id_id", "owner_id", "id"),
    Index("ix_batches_job_id", "job_id"),
    Index(
        "ix_batches_open",
        "id",
        postgresql_where=text("finalized_at IS NULL"),
        sqlite_where=text("finalized_at IS NULL"),
    ),
)

#: Where owners want to be told of what has ended.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    _owner(),
    Column("url", Text, nullable=False),
    #: Words of db.webhooks.EVENTS between spaces.
    Column("events", Text, nullable=False),
    Column("secret", Text, nullable=False),
    #: Signed with as well until `former_until`, while receivers change over.
    Column("former_secret", Text),
    _at("former_until"),
    _at("created_at", nullable=False),
    _at("disabled_at"),
    Index("ix_webhooks_owner_id_id", "owner_id", "id"),
)

#: The outbox: written in the transaction that ends what it tells of. One row for each end.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    _owner(),
    Column("webhook_id", Text, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False),
    #: The job or batch that has ended.
    Column("subject", Text, nullable=False),
    _at("created_at", nullable=False),
    #: When it is to be tried next; NULL when it will not be.
    _at("due_at"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _at("delivered_at"),
    Column("status", Integer),
    Column("problem", Text),
    Index("ix_deliveries_webhook_id_created_at", "webhook_id", "created_at"),
    Index("ix_deliveries_subject", "subject"),
    Index(
        "ix_deliveries_due",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
        sqlite_where=text("due_at IS NOT NULL"),
    ),
)

#: One row per start of a worker. Past `alive_until` a session is dead for good.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("worker", Text, nullable=False, index=True),
    Column("stage", Text, nullable=False),
    Column("model", Text),
    _at("started_at", nullable=False),
    _at("alive_until", nullable=False, index=True),
)

#: Every model that an engine worker has ever offered, as it described itself.
models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("card", Json, nullable=False),
    _at("offered_at", nullable=False),
)
