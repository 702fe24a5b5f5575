"""Jobs, their items, the sessions that lease them and the models that engines offer."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from db.sql.clock import UtcDateTime
from db.tables.columns import BigId, Json, at, metadata, owner_id, where

#: Rank of a job that a release from before ranks has inserted.
RANKED_FIRST = "1970-01-01 00:00:00.000000"

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    owner_id(),
    Column("model", Text, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("defaults", Json, nullable=False),
    #: Through which door it came; see db.vocabulary.states.SourceApi.
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
    at("listed_at"),
    Column("results_key", Text),
    Column("priority", Integer, nullable=False, server_default="0"),
    #: `created_at` less the head start of its priority: what an owner's jobs are claimed in.
    Column("rank_at", UtcDateTime(), nullable=False, server_default=RANKED_FIRST),
    #: Items that are not running by then are cancelled.
    at("expires_at"),
    #: References of the images of the examples in `defaults`, once intake has them.
    Column("examples", Json),
    at("created_at", nullable=False),
    at("sealed_at"),
    at("started_at"),
    at("paused_at"),
    #: One of db.vocabulary.states.PauseReason; NULL too if an older release paused it.
    Column("pause_reason", Text),
    at("cancelled_at"),
    at("finished_at"),
    #: Nobody sees it any more, and upkeep removes it.
    at("deleted_at"),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("queued", BigInteger, nullable=False, server_default="0"),
    Column("running", BigInteger, nullable=False, server_default="0"),
    Column("succeeded", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
    Column("cancelled", BigInteger, nullable=False, server_default="0"),
    #: Answers with an issue, and how many have which one: {"cut": 3}.
    Column("answers_with_issues", BigInteger, nullable=False, server_default="0"),
    Column("issue_counts", Json, nullable=False, server_default="{}"),
    #: The job pauses itself above this share of answers with issues.
    Column("pause_on_issues", Float),
    #: The variant of the model to which it is bound, and what it does when that is not served any
    #: more: one of db.vocabulary.states.ModelChanged.
    Column("variant", Text),
    Column("model_changed", Text, nullable=False, server_default="continue"),
    #: What its answered items have used; see db/queue/usage.py. `device_seconds` is NULL of a job
    #: for which a release that did not count has worked.
    Column("cached", BigInteger, nullable=False, server_default="0"),
    Column("images", BigInteger, nullable=False, server_default="0"),
    Column("prompt_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False, server_default="0"),
    Column("device_seconds", Float, server_default="0"),
    #: W3C trace context of the request that submitted it.
    Column("traceparent", Text),
    #: The highest result number that was given away; see db/queue/numbers.py.
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
        **where("finished_at IS NULL"),
    ),
    Index(
        "ix_jobs_expiring",
        "expires_at",
        **where("finished_at IS NULL AND expires_at IS NOT NULL"),
    ),
    Index(
        "ix_jobs_finished",
        "finished_at",
        **where("finished_at IS NOT NULL AND deleted_at IS NULL"),
    ),
    Index(
        "ix_jobs_deleted",
        "id",
        **where("deleted_at IS NOT NULL"),
    ),
    Index(
        "ix_jobs_spooled",
        "id",
        **where("spool_key IS NOT NULL"),
    ),
    Index(
        "ix_jobs_unlisted",
        "id",
        **where("source IS NOT NULL AND sealed_at IS NULL"),
    ),
    Index(
        "ix_jobs_chats",
        "owner_id",
        "rank_at",
        "id",
        **where("finished_at IS NULL AND origin = 'chat'"),
    ),
    Index(
        "ix_jobs_unwritten",
        "id",
        **where("finished_at IS NOT NULL AND results_key IS NULL AND origin = 'job'"),
    ),
)

items = Table(
    "items",
    metadata,
    Column("id", BigId, primary_key=True),
    owner_id(),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("custom_id", Text),
    #: What the submission says of this item; the job's defaults are laid under it.
    Column("request", Json, nullable=False),
    #: Digest of kind and options after the overlay: equal ones may share a batch.
    Column("options_digest", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("state", Text, nullable=False),
    at("due_at", nullable=False),
    #: True if the item waits until `due_at`. What is due at once compares no clocks, so that one
    #: that is set back holds nothing up.
    Column("delayed", Boolean, nullable=False, server_default=false()),
    #: The fencing token: grows with each claim and never falls.
    Column("attempt", Integer, nullable=False, server_default="0"),
    #: Attempts charged against the limit.
    Column("tries", Integer, nullable=False, server_default="0"),
    #: How often its worker died, or gave up, while it had the item.
    Column("rescues", Integer, nullable=False, server_default="0"),
    #: How often the watchdog had to end a worker that ran it alone.
    Column("deaths", Integer, nullable=False, server_default="0"),
    #: Of `sessions`, without a foreign key: to check it for each claimed item makes workers wait.
    Column("session_id", Text),
    #: References of the images after intake, in the order of the request.
    Column("images", Json),
    #: The same for examples of its own; those that it shares are the job's.
    Column("examples", Json),
    at("claimed_at"),
    at("finished_at"),
    Column("result_number", BigInteger),
    Column("answer", Json),
    #: Codes of `answer.issues` between spaces, for filters; NULL if there are none.
    Column("issues", Text),
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
        "delayed",
        "due_at",
        "id",
        **where("state = 'queued'"),
    ),
    Index(
        "ix_items_answer_key",
        "owner_id",
        "answer_key",
        "state",
        "id",
        **where("answer_key IS NOT NULL"),
    ),
    Index(
        "ix_items_leased",
        "session_id",
        "id",
        **where("state = 'running'"),
    ),
    Index(
        "ix_items_issues",
        "job_id",
        "result_number",
        **where("issues IS NOT NULL"),
    ),
    Index(
        "ix_items_results",
        "job_id",
        "result_number",
        unique=True,
        **where("result_number IS NOT NULL"),
    ),
)

#: Result numbers that a session has reserved, from the first one on, and has not written yet.
reservations = Table(
    "reservations",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("first_number", BigInteger, primary_key=True),
    owner_id(),
    Column("session_id", Text, nullable=False),
)

#: One row per start of a worker. Past `alive_until` a session is dead for good.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("worker", Text, nullable=False, index=True),
    Column("stage", Text, nullable=False),
    Column("model", Text),
    #: Which checkpoint, adapter, template and options; NULL if that is not known.
    Column("variant", Text),
    at("started_at", nullable=False),
    at("alive_until", nullable=False, index=True),
)

#: Every model that an engine worker has ever offered, as it described itself.
models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("card", Json, nullable=False),
    at("offered_at", nullable=False),
)
