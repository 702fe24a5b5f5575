"""Quotas of owners: how much may wait, and how much may be stored.

A quota that is not set for an owner comes from the settings, where 0 means no limit.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from db import owners
from db.queue.jobs import Job
from db.tables import blobs, files, jobs
from db.tables import owners as owner_rows
from db.vocabulary.errors import QuotaExceeded, TooLarge
from db.vocabulary.limits import OwnerLimits

#: After this long some of what waits may be done; clients of OpenAI's wait no longer than 120.
RETRY_SECONDS = 30
_REMEDIES = {
    "queued-items": "; try again when some are done",
    "stored-bytes": ": delete jobs, images or files",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Current usage of an owner."""

    queued_items: int
    stored_bytes: int


def effective_limits(transaction: Connection, owner_id: int, usual: OwnerLimits) -> OwnerLimits:
    """Return an owner's limits, with those of the settings where it has none of its own."""
    own = owners.limits(transaction, owner_id)
    return OwnerLimits(
        own.weight,
        *(
            getattr(own, name) if getattr(own, name) is not None else getattr(usual, name)
            for name in ("max_queued_items", "max_job_items", "max_stored_bytes")
        ),
    )


def usage(transaction: Connection, owner_id: int) -> Usage:
    """Return an owner's queued items and stored bytes, pending imports included."""
    return Usage(_queued(transaction, owner_id), _stored(transaction, owner_id))


def _queued(transaction: Connection, owner_id: int) -> int:
    waiting = jobs.c.queued + jobs.c.running + jobs.c.spool_lines - jobs.c.spool_offset
    found = transaction.execute(
        select(func.coalesce(func.sum(waiting), 0)).where(
            jobs.c.owner_id == owner_id, jobs.c.finished_at.is_(None)
        )
    )
    return int(found.scalar_one())


def _stored(transaction: Connection, owner_id: int) -> int:
    return sum(
        int(
            transaction.execute(
                select(func.coalesce(func.sum(table.c.size_bytes), 0)).where(
                    table.c.owner_id == owner_id
                )
            ).scalar_one()
        )
        for table in (blobs, files)
    )


def check_submission(
    transaction: Connection, owner_id: int, usual: OwnerLimits, new_items: int
) -> None:
    """Reject a submission that exceeds what its owner may have queued.

    Raises:
        TooLarge: No job may have so many items.
        QuotaExceeded: Not as long as so much waits.
    """
    limits = effective_limits(transaction, owner_id, usual)
    if limits.max_job_items and new_items > limits.max_job_items:
        raise TooLarge(f"{new_items} items; a job of this owner has at most {limits.max_job_items}")
    _check_waiting(transaction, owner_id, limits, new_items)


def check_page(transaction: Connection, job: Job, usual: OwnerLimits, new_items: int) -> None:
    """Reject one more page of a job whose items are added bit by bit.

    Raises:
        TooLarge: The job would have more items than any may have.
        QuotaExceeded: Not as long as so much waits.
    """
    limits = effective_limits(transaction, job.owner_id, usual)
    # The job starts only when all of it is listed, so waiting cannot make room.
    for most in (limits.max_job_items, limits.max_queued_items):
        if most and job.total + new_items > most:
            raise TooLarge(f"more than the {most} items that this owner may have")
    _check_waiting(transaction, job.owner_id, limits, new_items)


def check_upload(
    transaction: Connection, owner_id: int, usual: OwnerLimits, size_bytes: int
) -> None:
    """Reject bytes beyond what an owner may have stored.

    Raises:
        QuotaExceeded: Not before something is deleted.
    """
    _check_stored(transaction, owner_id, effective_limits(transaction, owner_id, usual), size_bytes)


def _check_waiting(
    transaction: Connection, owner_id: int, limits: OwnerLimits, new_items: int
) -> None:
    if not limits.max_queued_items and not limits.max_stored_bytes:
        return
    # Locked, so that two submissions do not both take what is left for one; but not for the
    # foreign keys of what is imported meanwhile.
    transaction.execute(
        select(owner_rows.c.id).where(owner_rows.c.id == owner_id).with_for_update(key_share=True)
    )
    if most := limits.max_queued_items:
        has = _queued(transaction, owner_id)
        if has + new_items > most:
            raise _exceeded("queued-items", f"{has} items wait", has, new_items, most)
    _check_stored(transaction, owner_id, limits, 0)


def _check_stored(transaction: Connection, owner_id: int, limits: OwnerLimits, more: int) -> None:
    if most := limits.max_stored_bytes:
        has = _stored(transaction, owner_id)
        if has + more > most:
            raise _exceeded("stored-bytes", f"{has} bytes are stored", has, more, most)


def _exceeded(quota: str, state: str, has: int, more: int, most: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"{state} already and {more} more would pass the {most} that this owner may have"
        f"{_REMEDIES[quota]}",
        quota=quota,
        limit=most,
        left=max(0, most - has),
    )
