"""Retention of jobs: soft delete, then purge.

finished job ─▶ soft-deleted (hidden) ─▶ items, page by page ─▶ results ─▶ row
"""

from typing import Any

from sqlalchemy import Connection, and_, delete, or_, select, update

from db.queue.jobs import Job, get, some_jobs
from db.sql.clock import after, now
from db.tables import batches, deliveries, items, jobs, webhooks
from db.vocabulary.errors import NotReady
from db.vocabulary.states import SourceApi


def soft_delete_job(transaction: Connection, owner_id: int, job_id: str) -> None:
    """Delete a finished job: it is invisible from now on, and upkeep purges its rows.

    Raises:
        NotFound: There is none, or it is another owner's.
        NotReady: It has not finished; cancel it first.
    """
    job = get(transaction, owner_id, job_id)
    if job.finished_at is None:
        raise NotReady(
            f"job {job_id} is {job.state}: cancel it first, and delete it when it has finished"
        )
    if not _soft_delete(transaction, jobs.c.id == job_id):
        raise NotReady(f"job {job_id} is a batch whose files are being written")


def soft_delete_old_jobs(
    transaction: Connection, *, keep_seconds: float, keep_chat_seconds: float, limit: int
) -> int:
    """Delete some jobs that finished long ago; 0 keeps them for ever. Returns how many."""
    chats = jobs.c.origin == SourceApi.CHAT.value
    rules = [(~chats, keep_seconds), (chats, keep_chat_seconds)]
    old = [and_(condition, jobs.c.finished_at < after(-wait)) for condition, wait in rules if wait]
    if not old:
        return 0
    # Deliveries about a job come before its deletion.
    undelivered = (
        select(deliveries.c.id)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(
            deliveries.c.subject == jobs.c.id,
            deliveries.c.due_at.is_not(None),
            webhooks.c.disabled_at.is_(None),
        )
    )
    some = select(jobs.c.id).where(or_(*old), jobs.c.deleted_at.is_(None), ~undelivered.exists())
    return _soft_delete(transaction, jobs.c.id.in_(some.limit(limit)))


def _soft_delete(transaction: Connection, *conditions: Any) -> int:
    unwritten = select(batches.c.id).where(
        batches.c.job_id == jobs.c.id, batches.c.finalized_at.is_(None)
    )
    # Its key is free again: the same submission would be a new job.
    deleted = transaction.execute(
        update(jobs)
        .where(
            jobs.c.finished_at.is_not(None),
            jobs.c.deleted_at.is_(None),
            ~unwritten.exists(),
            *conditions,
        )
        .values(deleted_at=now(), idempotency_key=None)
    )
    return int(deleted.rowcount)


def deleted_jobs(transaction: Connection, most: int) -> list[Job]:
    """Return deleted jobs whose rows are still there: some of each owner."""
    return some_jobs(transaction, most, jobs.c.deleted_at.is_not(None))


def purge_items(transaction: Connection, job_id: str, limit: int) -> int:
    """Delete some items of a deleted job. Returns how many; safe to repeat."""
    some = select(items.c.id).where(items.c.job_id == job_id).limit(limit)
    removed = transaction.execute(delete(items).where(items.c.id.in_(some)))
    return int(removed.rowcount)


def purge_job(transaction: Connection, job_id: str) -> None:
    """Delete the row of a deleted job without items, with its deliveries and batch."""
    batch_ids = select(batches.c.id).where(batches.c.job_id == job_id)
    transaction.execute(
        delete(deliveries).where(
            or_(deliveries.c.subject == job_id, deliveries.c.subject.in_(batch_ids))
        )
    )
    transaction.execute(delete(batches).where(batches.c.job_id == job_id))
    transaction.execute(delete(jobs).where(jobs.c.id == job_id, jobs.c.deleted_at.is_not(None)))
