"""Jobs after their submission: reading, steering, and the maintenance that upkeep does."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, select, update

from db.queue import counts, gate, numbers
from db.queue.usage import Amounts
from db.sql import statement as sql
from db.sql.clock import now
from db.sql.fair import first_of_each_owner
from db.tables import jobs
from db.vocabulary.errors import NotFound, RequestError
from db.vocabulary.states import JobState, PauseReason, ended_as


@dataclass(frozen=True, slots=True)
class Job:
    """Facts and counts of a job at one moment; for `results` see numbers.last_readable."""

    id: str
    owner_id: int
    model: str
    name: str
    defaults: dict[str, Any]
    body_digest: str | None
    spool_key: str | None
    spool_lines: int
    spool_offset: int
    spool_bytes: int
    source: str | None
    source_after: str | None
    listed_at: datetime | None
    source_api: str
    results_key: str | None
    priority: int
    expires_at: datetime | None
    created_at: datetime
    sealed_at: datetime | None
    started_at: datetime | None
    paused_at: datetime | None
    pause_reason: str | None
    cancelled_at: datetime | None
    finished_at: datetime | None
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    answers_with_issues: int
    issue_counts: dict[str, int]
    pause_on_issues: float | None
    variant: str | None
    model_changed: str
    cached: int
    images: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float | None
    traceparent: str | None
    results: int

    @property
    def usage(self) -> Amounts | None:
        """What its items have used so far; None if release 0.2 has worked for it uncounted."""
        if self.device_seconds is None:
            return None
        return Amounts(
            items=self.succeeded,
            failed=self.failed,
            cached=self.cached,
            images=self.images,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            device_seconds=self.device_seconds,
        )

    @property
    def state(self) -> JobState:
        """State that users see; see db/vocabulary/states.py."""
        if self.finished_at:
            return ended_as(
                cancelled_at=self.cancelled_at, expires_at=self.expires_at, failed=self.failed
            )
        if self.cancelled_at:
            return JobState.CANCELLING
        if not self.sealed_at:
            return JobState.IMPORTING
        if self.paused_at:
            return JobState.PAUSED
        return JobState.RUNNING if self.started_at else JobState.QUEUED


_NAMED_OTHERWISE = {"source_api": jobs.c.origin, "results": numbers.last_readable()}
JOB_COLUMNS = [
    _NAMED_OTHERWISE[field.name].label(field.name)
    if field.name in _NAMED_OTHERWISE
    else jobs.c[field.name]
    for field in fields(Job)
]
#: Head start that each step of priority is worth.
PRIORITY_SECONDS = 600.0


def as_job(row: Row[Any]) -> Job:
    """Turn a row of JOB_COLUMNS into a Job."""
    return Job(**row._mapping)


def some_jobs(transaction: Connection, most: int, *conditions: ColumnElement[bool]) -> list[Job]:
    """Return at most so many jobs of each owner that meet conditions, oldest first."""
    query = select(*JOB_COLUMNS).where(*conditions)
    rows = transaction.execute(first_of_each_owner(query, jobs.c.owner_id, jobs.c.id, most))
    return [as_job(row) for row in rows]


def new_id(prefix: str) -> str:
    """Return an id that sorts by creation time: 48 bits of milliseconds, 64 random bits."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


# ---- look ---------------------------------------------------------------------------


def get(transaction: Connection, owner_id: int, job_id: str) -> Job:
    """Return a job of this owner.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    row = transaction.execute(
        select(*JOB_COLUMNS).where(
            jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.deleted_at.is_(None)
        )
    ).first()
    if row is None:
        raise NotFound(f"no such job: {job_id!r}")
    return as_job(row)


def several(transaction: Connection, job_ids: Iterable[str]) -> list[Job]:
    """Return jobs of any owner. The caller must have checked that the owner may see them."""
    rows = transaction.execute(select(*JOB_COLUMNS).where(jobs.c.id.in_(list(job_ids))))
    return [as_job(row) for row in rows]


# ---- steer --------------------------------------------------------------------------


def cancel(transaction: Connection, owner_id: int, job_id: str) -> Job:
    """Cancel a job: start no more of its items. Answers are kept. Safe to repeat.

    Queued items are settled by `settle_cancelled`; running ones finish as they would have.
    """
    get(transaction, owner_id, job_id)
    gate.close(transaction, job_id)
    stop(transaction, job_id)
    return get(transaction, owner_id, job_id)


def stop(transaction: Connection, job_id: str) -> None:
    """Cancel a job, as `cancel` does, but for a claim that may be taking items at this moment."""
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.cancelled_at.is_(None), jobs.c.finished_at.is_(None))
        .values(cancelled_at=now())
    )


def pause(transaction: Connection, owner_id: int, job_id: str, *, paused: bool) -> Job:
    """Pause or resume a job. Safe to repeat.

    Resuming a job that has paused itself turns the rule off by which it did, or binds the job to
    the variant of its model that claims next.

    Raises:
        RequestError: The job has finished or was cancelled.
    """
    job = get(transaction, owner_id, job_id)
    if job.finished_at or job.cancelled_at:
        raise RequestError(f"job {job_id} is {job.state} and can be neither paused nor resumed")
    values: dict[str, Any]
    if paused:  # a job that has paused itself keeps its reason
        reason = func.coalesce(jobs.c.pause_reason, PauseReason.REQUESTED.value)
        values = {"paused_at": func.coalesce(jobs.c.paused_at, now()), "pause_reason": reason}
    else:
        is_by_rule = jobs.c.pause_reason == PauseReason.ISSUES.value
        rule = case((is_by_rule, None), else_=jobs.c.pause_on_issues)
        has_changed = jobs.c.pause_reason == PauseReason.MODEL_CHANGED.value
        values = {
            "paused_at": None,
            "pause_reason": None,
            "pause_on_issues": rule,
            "variant": case((has_changed, None), else_=jobs.c.variant),
        }
    gate.close(transaction, job_id)
    transaction.execute(
        update(jobs).where(jobs.c.id == job_id, jobs.c.finished_at.is_(None)).values(**values)
    )
    return get(transaction, owner_id, job_id)


def prioritize(transaction: Connection, owner_id: int, job_id: str, priority: int) -> Job:
    """Change a job's rank among its owner's, from the next claim on. Safe to repeat."""
    job = get(transaction, owner_id, job_id)
    head_start = timedelta(seconds=PRIORITY_SECONDS * priority)
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(priority=priority, rank_at=job.created_at - head_start)
    )
    return get(transaction, owner_id, job_id)


# ---- upkeep -------------------------------------------------------------------------


def expire(transaction: Connection) -> list[str]:
    """Expire jobs whose time is over: start no more of them. Safe to repeat; returns their ids."""
    over = transaction.execute(
        select(jobs.c.id)
        .where(
            jobs.c.finished_at.is_(None),
            jobs.c.cancelled_at.is_(None),
            jobs.c.expires_at <= now(),
        )
        .order_by(jobs.c.id)
        .with_for_update(skip_locked=True, key_share=True)
    )
    ids = list(over.scalars())
    if ids:
        transaction.execute(update(jobs).where(jobs.c.id.in_(ids)).values(cancelled_at=now()))
    return ids


def to_settle(transaction: Connection, most: int) -> list[Job]:
    """Return sealed, cancelled jobs with queued items: some of each owner, oldest first."""
    return some_jobs(
        transaction,
        most,
        jobs.c.finished_at.is_(None),
        jobs.c.sealed_at.is_not(None),
        jobs.c.cancelled_at.is_not(None),
        jobs.c.queued > 0,
    )


_SETTLE = sql.Statement(
    """
    WITH chosen AS MATERIALIZED (
        SELECT id, row_number() OVER (ORDER BY id) AS place FROM (
            SELECT id FROM items WHERE job_id = :job AND state = 'queued'
            ORDER BY id LIMIT :limit {skip_locked}
        ) AS page
    )
    UPDATE items SET state = 'cancelled', finished_at = {now},
        result_number = (SELECT results FROM jobs WHERE id = :job) + chosen.place
    FROM chosen WHERE items.id = chosen.id AND items.state = 'queued'
    RETURNING items.id
    """
)


def settle_cancelled(transaction: Connection, job_id: str, limit: int) -> int:
    """Cancel one page of a cancelled job's queued items. Safe to repeat; returns how many."""
    counts.lock(transaction, [job_id])
    settled = len(_SETTLE.run(transaction, job=job_id, limit=limit).all())
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            queued=jobs.c.queued - settled,
            cancelled=jobs.c.cancelled + settled,
            results=jobs.c.results + settled,
        )
    )
    counts.finish_if_done(transaction, [job_id])
    return settled
