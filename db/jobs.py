"""The client's statements: submit, import, look, cancel, pause.

    create ─▶ add_items (one page, or many from a spool) ─▶ seal ─▶ claimable

A job is claimable, and can finish, only once it is sealed. Whoever changes items locks their
jobs first, in id order, so that counts and items agree in every snapshot and nobody deadlocks.
"""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from db import sql, verdicts
from db.clock import now
from db.errors import IdempotencyConflict, NotFound, RequestError
from db.requests import effective, options_digest, references
from db.states import ItemState, JobState, Stage, job_state
from db.tables import items, jobs

#: Above this many rows Postgres takes them by COPY.
COPY_ROWS = 200


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item as submitted: a canonical request and the caller's own id for it."""

    request: dict[str, Any]
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as submitted.

    Attributes:
        body_digest: SHA-256 of the whole submission; with `idempotency_key` it tells a repeated
            submission from another one under the same key.
        spool_key: Where a streamed submission waits for its import, with `spool_lines` lines.
    """

    owner_id: int
    model: str
    defaults: dict[str, Any]
    name: str = ""
    idempotency_key: str | None = None
    body_digest: str | None = None
    spool_key: str | None = None
    spool_lines: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job's facts and counts at one moment."""

    id: str
    owner_id: int
    model: str
    name: str
    defaults: dict[str, Any]
    body_digest: str | None
    spool_key: str | None
    spool_lines: int
    spool_offset: int
    results_key: str | None
    created_at: datetime
    sealed_at: datetime | None
    started_at: datetime | None
    paused_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int

    @property
    def state(self) -> JobState:
        """What users see; see db/states.py."""
        return job_state(
            sealed_at=self.sealed_at,
            started_at=self.started_at,
            paused_at=self.paused_at,
            cancelled_at=self.cancelled_at,
            finished_at=self.finished_at,
            failed=self.failed,
        )


_JOB_COLUMNS = [jobs.c[field.name] for field in fields(Job)]


def _job(row: Row[Any]) -> Job:
    return Job(**row._mapping)


def new_id(prefix: str) -> str:
    """An id that sorts by the time it was made: 48 bits of milliseconds, 64 of chance."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def lock(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Lock jobs in id order until the transaction ends. SQLite's writer holds all anyway."""
    ids = sorted(set(job_ids))
    transaction.execute(
        select(jobs.c.id).where(jobs.c.id.in_(ids)).order_by(jobs.c.id).with_for_update()
    )


# ---- submit -------------------------------------------------------------------------


def create(transaction: Connection, job: NewJob) -> str:
    """Insert a job that is not sealed yet and has no items. Returns its id."""
    job_id = new_id("job")
    values = {field.name: getattr(job, field.name) for field in fields(NewJob)}
    transaction.execute(insert(jobs).values(id=job_id, created_at=now(), **values))
    return job_id


def create_once(transaction: Connection, job: NewJob) -> tuple[str, bool]:
    """Create a job, or find the one that an earlier submission under the same key made.

    Returns:
        The job's id, and whether it was created now.

    Raises:
        IdempotencyConflict: The key was used with another body.
    """
    if earlier := submitted_before(transaction, job):
        return earlier, False
    try:
        with transaction.begin_nested():
            return create(transaction, job), True
    except IntegrityError:
        # Submitted at the same moment by somebody else, who was first.
        earlier = submitted_before(transaction, job)
        if earlier is None:
            raise
        return earlier, False


def submit(transaction: Connection, job: NewJob, new_items: Sequence[NewItem]) -> str:
    """Submit a small job whole: create it once, with all its items, sealed. Returns its id."""
    job_id, created = create_once(transaction, job)
    if not created:
        return job_id
    _insert(transaction, job_id, job, 0, new_items)
    seal(transaction, job_id)
    return job_id


def submitted_before(transaction: Connection, job: NewJob) -> str | None:
    """The job that an earlier submission under the same key made, if any.

    Raises:
        IdempotencyConflict: The key was used with another body.
    """
    if job.idempotency_key is None:
        return None
    row = transaction.execute(
        select(jobs.c.id, jobs.c.body_digest).where(
            jobs.c.owner_id == job.owner_id, jobs.c.idempotency_key == job.idempotency_key
        )
    ).first()
    if row is None:
        return None
    if row.body_digest != job.body_digest:
        raise IdempotencyConflict(
            f"Idempotency-Key {job.idempotency_key!r} was used for job {row.id} with another body"
        )
    return str(row.id)


def import_page(
    transaction: Connection, job: Job, offset: int, new_items: Sequence[NewItem]
) -> bool:
    """Add one page of a spooled submission, whose first line is number `offset`.

    Writes only if the job still waits for exactly this page, so it may run twice and at two
    places. Returns whether it was this call that wrote it.
    """
    lock(transaction, [job.id])
    advanced = transaction.execute(
        update(jobs)
        .where(
            jobs.c.id == job.id,
            jobs.c.spool_offset == offset,
            jobs.c.sealed_at.is_(None),
            jobs.c.cancelled_at.is_(None),
        )
        .values(spool_offset=offset + len(new_items))
    )
    if not advanced.rowcount:
        return False
    _insert(transaction, job.id, job, offset, new_items)
    return True


def seal(transaction: Connection, job_id: str) -> None:
    """Say that no more items will come. Safe to repeat; without items a job is finished at once.

    Writes only if the whole spool was imported, or the job was cancelled before that.
    """
    transaction.execute(
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.sealed_at.is_(None),
            or_(
                jobs.c.spool_offset == jobs.c.spool_lines,
                jobs.c.cancelled_at.is_not(None),
            ),
        )
        .values(sealed_at=now())
    )
    finish_if_done(transaction, [job_id])


def _insert(
    transaction: Connection,
    job_id: str,
    job: NewJob | Job,
    offset: int,
    new_items: Sequence[NewItem],
) -> None:
    due = transaction.execute(select(now())).scalar_one()
    asked = [effective(job.defaults, item.request) for item in new_items]
    checked = verdicts.checked(
        transaction, job.owner_id, {ref for request in asked for ref in references(request)}
    )
    rows = []
    for index, (item, request) in enumerate(zip(new_items, asked, strict=True)):
        images = references(request)
        # What intake has checked before needs no intake again.
        ready = checked.issuperset(images)
        rows.append(
            {
                "owner_id": job.owner_id,
                "job_id": job_id,
                "ordinal": offset + index,
                "custom_id": item.custom_id,
                "request": item.request,
                "options_digest": options_digest(request),
                "stage": (Stage.GENERATE if ready else Stage.INTAKE).value,
                "state": ItemState.QUEUED.value,
                "due_at": due,
                "images": images if ready else None,
            }
        )
    if transaction.dialect.name == "postgresql" and len(rows) > COPY_ROWS:
        _copy(transaction, rows)
    elif rows:
        transaction.execute(insert(items), rows)
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(total=jobs.c.total + len(rows), queued=jobs.c.queued + len(rows))
    )


def _copy(transaction: Connection, rows: Sequence[dict[str, Any]]) -> None:
    driver: Any = transaction.connection.dbapi_connection
    names = list(rows[0])
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY items ({', '.join(names)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row([_copied(row[name]) for name in names])


def _copied(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


# ---- look ---------------------------------------------------------------------------


def get(transaction: Connection, owner_id: int, job_id: str) -> Job:
    """A job of this owner.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    row = transaction.execute(
        select(*_JOB_COLUMNS).where(jobs.c.id == job_id, jobs.c.owner_id == owner_id)
    ).first()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}")
    return _job(row)


def page(transaction: Connection, owner_id: int, *, before: str | None, limit: int) -> list[Job]:
    """An owner's jobs, newest first; `before` is the last id of the page before this one."""
    query = select(*_JOB_COLUMNS).where(jobs.c.owner_id == owner_id)
    if before is not None:
        query = query.where(jobs.c.id < before)
    rows = transaction.execute(query.order_by(jobs.c.id.desc()).limit(limit))
    return [_job(row) for row in rows]


def finished(transaction: Connection, job_ids: Iterable[str]) -> set[str]:
    """Those of `job_ids` that have finished."""
    rows = transaction.execute(
        select(jobs.c.id).where(jobs.c.id.in_(list(job_ids)), jobs.c.finished_at.is_not(None))
    )
    return set(rows.scalars())


# ---- steer --------------------------------------------------------------------------


def cancel(transaction: Connection, owner_id: int, job_id: str) -> Job:
    """Let no more items of the job start; answers there are stay. Safe to repeat.

    Queued items are settled by `settle_cancelled`; running ones finish as they would have.
    """
    get(transaction, owner_id, job_id)
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.cancelled_at.is_(None), jobs.c.finished_at.is_(None))
        .values(cancelled_at=now())
    )
    return get(transaction, owner_id, job_id)


def pause(transaction: Connection, owner_id: int, job_id: str, *, paused: bool) -> Job:
    """Start nothing new of the job, or go on. Safe to repeat.

    Raises:
        RequestError: The job has finished or was cancelled.
    """
    job = get(transaction, owner_id, job_id)
    if job.finished_at or job.cancelled_at:
        raise RequestError(f"job {job_id} is {job.state} and can be neither paused nor resumed")
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.finished_at.is_(None))
        .values(paused_at=now() if paused else None)
    )
    return get(transaction, owner_id, job_id)


# ---- upkeep -------------------------------------------------------------------------


def to_import(transaction: Connection) -> list[Job]:
    """Jobs whose spool is still there, to be imported or deleted, oldest first."""
    rows = transaction.execute(
        select(*_JOB_COLUMNS).where(jobs.c.spool_key.is_not(None)).order_by(jobs.c.id)
    )
    return [_job(row) for row in rows]


def forget_spool(transaction: Connection, job_id: str) -> None:
    """Note that a sealed job's spool is deleted. Safe to repeat."""
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.sealed_at.is_not(None))
        .values(spool_key=None)
    )


def give_up_import(transaction: Connection, job: Job) -> None:
    """Cancel a job whose spool can never be imported, so that it ends. Safe to repeat."""
    cancel(transaction, job.owner_id, job.id)
    seal(transaction, job.id)


def to_write(transaction: Connection, limit: int) -> list[Job]:
    """Finished jobs whose results object is not written yet, oldest first."""
    rows = transaction.execute(
        select(*_JOB_COLUMNS)
        .where(jobs.c.finished_at.is_not(None), jobs.c.results_key.is_(None))
        .order_by(jobs.c.id)
        .limit(limit)
    )
    return [_job(row) for row in rows]


def record_results(transaction: Connection, job_id: str, key: str) -> None:
    """Remember where a finished job's results object is. Safe to repeat."""
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.finished_at.is_not(None))
        .values(results_key=key)
    )


def to_settle(transaction: Connection) -> list[str]:
    """Sealed, cancelled jobs that still have queued items."""
    rows = transaction.execute(
        select(jobs.c.id).where(
            jobs.c.finished_at.is_(None),
            jobs.c.sealed_at.is_not(None),
            jobs.c.cancelled_at.is_not(None),
            jobs.c.queued > 0,
        )
    )
    return list(rows.scalars())


_SETTLE = sql.Statement(
    """
    WITH chosen AS MATERIALIZED (
        SELECT id, row_number() OVER (ORDER BY id) AS place FROM (
            SELECT id FROM items WHERE job_id = :job AND state = 'queued'
            ORDER BY id LIMIT :limit {for_update}
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
    lock(transaction, [job_id])
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
    finish_if_done(transaction, [job_id])
    return settled


def finish_if_done(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Finish those sealed jobs that have nothing open any more. Safe to repeat."""
    transaction.execute(
        update(jobs)
        .where(
            jobs.c.id.in_(list(job_ids)),
            jobs.c.sealed_at.is_not(None),
            jobs.c.finished_at.is_(None),
            jobs.c.queued == 0,
            jobs.c.running == 0,
        )
        .values(finished_at=now())
    )
