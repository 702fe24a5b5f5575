"""Imports of spools and buckets into items, page by page, by upkeep.

Every page says where it belongs and moves the job on in the same transaction: it may be written
twice and at two places, and counts once.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, or_, update

from db.queue import counts, submissions
from db.queue.jobs import Job, get, some_jobs, stop
from db.queue.submissions import NewItem
from db.sql.clock import now
from db.tables import jobs
from db.vocabulary.states import SourceApi


def import_page(
    transaction: Connection, job: Job, offset: int, new_items: Sequence[NewItem], end: int
) -> bool:
    """Add one page of a spool, from line number `offset` to byte number `end`.

    Writes only if the job still waits for exactly this page, so it may run twice and at two
    places. Returns whether it was this call that wrote it.
    """
    counts.lock(transaction, [job.id])
    advanced = transaction.execute(
        update(jobs)
        .where(
            jobs.c.id == job.id,
            jobs.c.spool_offset == offset,
            jobs.c.sealed_at.is_(None),
            # Every line of a batch needs an outcome, so all are imported.
            or_(jobs.c.cancelled_at.is_(None), jobs.c.origin == SourceApi.BATCH.value),
        )
        .values(spool_offset=offset + len(new_items), spool_bytes=end)
    )
    if not advanced.rowcount:
        return False
    submissions.insert_items(transaction, job.id, job, offset, new_items)
    return True


def list_page(
    transaction: Connection, job: Job, new_items: Sequence[NewItem], *, last: str | None
) -> bool:
    """Add the images of one page of a job's bucket; `last` is its last key.

    Writes only if the job's listing still stands where `job` says, so it may run twice and at
    two places. None for `last` says that there are no more. Returns whether it was this call
    that wrote it.
    """
    counts.lock(transaction, [job.id])
    reached = {"source_after": last} if last is not None else {"listed_at": now()}
    advanced = transaction.execute(
        update(jobs)
        .where(
            jobs.c.id == job.id,
            jobs.c.source_after.is_not_distinct_from(job.source_after),
            jobs.c.listed_at.is_(None),
            jobs.c.sealed_at.is_(None),
            jobs.c.cancelled_at.is_(None),
        )
        .values(reached)
        .returning(jobs.c.total)
    ).first()
    if advanced is None:
        return False
    submissions.insert_items(transaction, job.id, job, advanced.total, new_items)
    return True


def to_import(transaction: Connection, most: int) -> list[Job]:
    """Return jobs whose spool is to be imported or deleted: some of each owner, oldest first."""
    return some_jobs(transaction, most, jobs.c.spool_key.is_not(None))


def to_list(transaction: Connection, most: int) -> list[Job]:
    """Return jobs whose bucket is still to be listed: some of each owner, oldest first."""
    return some_jobs(transaction, most, jobs.c.source.is_not(None), jobs.c.sealed_at.is_(None))


def clear_spool(transaction: Connection, job_id: str) -> None:
    """Record that a sealed job's spool is deleted. Safe to repeat."""
    transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.sealed_at.is_not(None))
        .values(spool_key=None)
    )


def give_up_import(transaction: Connection, job: Job) -> bool:
    """Cancel a job that cannot be imported completely. Safe to repeat.

    Returns True if the job was cancelled. A spool is also missing if another worker has imported
    all of it.
    """
    counts.lock(transaction, [job.id])
    if get(transaction, job.owner_id, job.id).sealed_at:
        return False
    stop(transaction, job.id)
    submissions.seal(transaction, job.id)
    return True
