"""Batches of OpenAI's API: a job with an input file, a completion window and two output files.

Whatever the end of a batch, the answers there are go into its output file. Its states are in
batch.py.
"""

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from db import tracing
from db.openai.batch import Batch, NewBatch
from db.queue import counts, submissions
from db.queue import jobs as job_statements
from db.queue.jobs import JOB_COLUMNS, Job, new_id
from db.queue.submissions import NewJob
from db.sql.clock import after, now
from db.sql.fair import first_of_each_owner
from db.tables import batches, jobs
from db.vocabulary.errors import IdempotencyConflict, NotFound
from db.webhooks import outbox
from db.webhooks.outbox import Announcement

_OWN = [field.name for field in fields(Batch) if field.name != "job"]
_COLUMNS = [
    *(batches.c[name] for name in _OWN),
    *(column.label(f"job__{column.name}") for column in JOB_COLUMNS),
]
_FROM = batches.outerjoin(jobs, jobs.c.id == batches.c.job_id)


def _batch(row: Row[Any]) -> Batch:
    found = row._mapping
    job = {column.name: found[f"job__{column.name}"] for column in JOB_COLUMNS}
    return Batch(
        **{name: found[name] for name in _OWN},
        job=Job(**job) if found["job_id"] is not None else None,
    )


def part_id(batch_id: str, part: str) -> str:
    """Return the id of a batch's file: `part` is "output" or "errors"."""
    return f"file-{batch_id.removeprefix('batch_')}-{part}"


def _batch_of_part(file_id: str) -> tuple[str, str] | None:
    """Parse the id of a batch's file into batch and part; None if it is another id."""
    name, _, part = file_id.removeprefix("file-").rpartition("-")
    return (f"batch_{name}", part) if name and part in ("output", "errors") else None


def create_once(transaction: Connection, new: NewBatch, *, again: bool) -> Batch:
    """Create a batch, or return the one that the same request created before.

    Args:
        again: Whether the request says of itself that it is sent again.
    """
    if earlier := find_same(transaction, new, again=again):
        return earlier
    try:
        with transaction.begin_nested():
            return _create(transaction, new)
    except IntegrityError:
        # Asked at the same moment by somebody else, who was first.
        earlier = find_same(transaction, new, again=True)
        if earlier is None:
            raise
        return earlier


def _create(transaction: Connection, new: NewBatch) -> Batch:
    batch_id = new_id("batch_")
    values = {field.name: getattr(new, field.name) for field in fields(NewBatch)}
    window = values.pop("window_seconds")
    transaction.execute(
        insert(batches).values(
            id=batch_id,
            lines=0,
            errors=[],
            created_at=now(),
            expires_at=after(window),
            traceparent=tracing.current(),
            **values,
        )
    )
    return get(transaction, new.owner_id, batch_id)


def find_same(transaction: Connection, new: NewBatch, *, again: bool) -> Batch | None:
    """Return the batch that the same request created before, if it counts as the same.

    It does while it runs, and later too if the request says of itself that it is sent `again`.
    Otherwise the same is to be done anew, and the earlier batch gives up its claim to the key.

    Raises:
        IdempotencyConflict: The key was used for another request.
    """
    row = transaction.execute(
        select(*_COLUMNS)
        .select_from(_FROM)
        .where(batches.c.owner_id == new.owner_id, batches.c.request_key == new.request_key)
    ).first()
    if row is None:
        return None
    found = _batch(row)
    if found.body_digest != new.body_digest:
        raise IdempotencyConflict(f"the Idempotency-Key was used for {found.id} with another body")
    if again or found.finalized_at is None:
        return found
    transaction.execute(update(batches).where(batches.c.id == found.id).values(request_key=None))
    return None


def get(transaction: Connection, owner_id: int, batch_id: str) -> Batch:
    """Return a batch of this owner.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    row = transaction.execute(
        select(*_COLUMNS)
        .select_from(_FROM)
        .where(batches.c.id == batch_id, batches.c.owner_id == owner_id)
    ).first()
    if row is None:
        raise NotFound(f"no such batch: {batch_id!r}")
    return _batch(row)


def unfinished(transaction: Connection, owner_id: int, file_id: str) -> Batch:
    """Return the running batch that will end with a file of this id.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    if part := _batch_of_part(file_id):
        batch = get(transaction, owner_id, part[0])
        if not batch.finalized_at:
            return batch
    raise NotFound(f"no such file: {file_id!r}")


def page(transaction: Connection, owner_id: int, *, before: str | None, limit: int) -> list[Batch]:
    """Return an owner's batches, newest first; `before` is the last id of the previous page."""
    query = select(*_COLUMNS).select_from(_FROM).where(batches.c.owner_id == owner_id)
    if before is not None:
        query = query.where(batches.c.id < before)
    rows = transaction.execute(query.order_by(batches.c.id.desc()).limit(limit))
    return [_batch(row) for row in rows]


def cancel(transaction: Connection, owner_id: int, batch_id: str) -> Batch:
    """Cancel a batch. Safe to repeat, and without effect on one that has finished."""
    get(transaction, owner_id, batch_id)
    if _end_without_job(transaction, batch_id, cancelled_at=now()):
        _announce(transaction, owner_id, batch_id)
    found = get(transaction, owner_id, batch_id)
    if found.job_id:
        job_statements.cancel(transaction, owner_id, found.job_id)
    return get(transaction, owner_id, batch_id)


def _end_without_job(transaction: Connection, batch_id: str, **values: Any) -> bool:
    """End a batch whose input file is still being checked. True if it was."""
    ended = transaction.execute(
        update(batches)
        .where(
            batches.c.id == batch_id, batches.c.job_id.is_(None), batches.c.finalized_at.is_(None)
        )
        .values(finalized_at=now(), **values)
    )
    return bool(ended.rowcount)


def _announce(transaction: Connection, owner_id: int, batch_id: str) -> None:
    status = get(transaction, owner_id, batch_id).status
    outbox.announce(transaction, [Announcement(owner_id, batch_id, f"batch.{status}")])


# ---- upkeep -------------------------------------------------------------------------


def to_check(transaction: Connection, most: int) -> list[Batch]:
    """Return batches whose input file is still to be checked: some of each owner."""
    return _batches(transaction, most, batches.c.job_id.is_(None))


def start(transaction: Connection, batch: Batch, job: NewJob) -> bool:
    """Make a job of a batch whose input file is checked. False if it has ended or started since."""
    job_id = submissions.create(transaction, job)
    started = transaction.execute(
        update(batches)
        .where(
            batches.c.id == batch.id, batches.c.job_id.is_(None), batches.c.finalized_at.is_(None)
        )
        .values(job_id=job_id, errors=None, model=job.model, lines=job.spool_lines)
    )
    if not started.rowcount:
        transaction.execute(delete(jobs).where(jobs.c.id == job_id))
    return bool(started.rowcount)


def fail(
    transaction: Connection,
    batch: Batch,
    mistakes: list[dict[str, Any]],
    *,
    model: str | None,
    lines: int,
) -> None:
    """End a batch whose input file has mistakes. Safe to repeat."""
    if _end_without_job(transaction, batch.id, errors=mistakes, model=model, lines=lines):
        _announce(transaction, batch.owner_id, batch.id)


def to_expire(transaction: Connection, most: int) -> list[Batch]:
    """Return batches that still run after the end of their window: some of each owner."""
    return _batches(
        transaction,
        most,
        batches.c.expired_at.is_(None),
        batches.c.expires_at < now(),
        jobs.c.finished_at.is_(None),
        jobs.c.cancelled_at.is_(None),
    )


def expire(transaction: Connection, batch: Batch) -> None:
    """Expire a batch whose completion window is over: start no more items. Idempotent.

    Writes only if its job has neither finished nor been cancelled by now, and if it still has none
    where `batch` has none.
    """
    if batch.job_id is None:
        if _end_without_job(transaction, batch.id, expired_at=now()):
            _announce(transaction, batch.owner_id, batch.id)
        return
    counts.lock(transaction, [batch.job_id])
    runs = select(jobs.c.id).where(
        jobs.c.id == batch.job_id, jobs.c.finished_at.is_(None), jobs.c.cancelled_at.is_(None)
    )
    expired = transaction.execute(
        update(batches)
        .where(batches.c.id == batch.id, batches.c.expired_at.is_(None), runs.exists())
        .values(expired_at=now())
    )
    if expired.rowcount:
        job_statements.stop(transaction, batch.job_id)


def to_finalize(transaction: Connection, most: int) -> list[Batch]:
    """Return batches whose jobs have finished, without their files: some of each owner."""
    return _batches(transaction, most, jobs.c.finished_at.is_not(None))


def finalize(
    transaction: Connection,
    batch_id: str,
    *,
    output_file_id: str | None,
    error_file_id: str | None,
    usage: dict[str, Any],
) -> None:
    """Record that a batch's files are written; None for one without lines. Safe to repeat."""
    finalized = transaction.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.finalized_at.is_(None))
        .values(
            finalized_at=now(),
            output_file_id=output_file_id,
            error_file_id=error_file_id,
            usage=usage,
        )
        .returning(batches.c.owner_id)
    ).scalar()
    if finalized is not None:
        _announce(transaction, finalized, batch_id)


def _batches(transaction: Connection, most: int, *conditions: Any) -> list[Batch]:
    query = (
        select(*_COLUMNS).select_from(_FROM).where(batches.c.finalized_at.is_(None), *conditions)
    )
    rows = transaction.execute(first_of_each_owner(query, batches.c.owner_id, batches.c.id, most))
    return [_batch(row) for row in rows]
