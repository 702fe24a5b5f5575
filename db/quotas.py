"""Quotas of owners: how much may wait, and how much may be stored.

A quota that nobody has set is that of the settings, and 0 there is none.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from db import owners
from db.errors import QuotaExceeded, TooLarge
from db.owners import Limits
from db.tables import blobs, files, jobs
from db.tables import owners as owner_rows

#: After this long some of what waits may be done; clients of OpenAI's wait no longer than 120.
RETRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner has now."""

    queued_items: int
    stored_bytes: int


def of(transaction: Connection, owner_id: int, usual: Limits) -> Limits:
    """An owner's limits, with those of the settings where it has none of its own."""
    own = owners.limits(transaction, owner_id)
    return Limits(
        own.weight,
        *(
            getattr(own, name) if getattr(own, name) is not None else getattr(usual, name)
            for name in ("max_queued_items", "max_job_items", "max_stored_bytes")
        ),
    )


def usage(transaction: Connection, owner_id: int) -> Usage:
    """What an owner has waiting and stored, what is still to be imported included."""
    waiting = jobs.c.queued + jobs.c.running + jobs.c.spool_lines - jobs.c.spool_offset
    queued = transaction.execute(
        select(func.coalesce(func.sum(waiting), 0)).where(
            jobs.c.owner_id == owner_id, jobs.c.finished_at.is_(None)
        )
    ).scalar_one()
    stored = sum(
        transaction.execute(
            select(func.coalesce(func.sum(table.c.size_bytes), 0)).where(
                table.c.owner_id == owner_id
            )
        ).scalar_one()
        for table in (blobs, files)
    )
    return Usage(int(queued), int(stored))


def check_submission(transaction: Connection, owner_id: int, usual: Limits, new_items: int) -> None:
    """Refuse a submission that is more than an owner may have waiting.

    Raises:
        TooLarge: No job may have so many items.
        QuotaExceeded: Not as long as so much waits.
    """
    limits = of(transaction, owner_id, usual)
    if limits.max_job_items and new_items > limits.max_job_items:
        raise TooLarge(f"{new_items} items; a job of this owner has at most {limits.max_job_items}")
    if not limits.max_queued_items and not limits.max_stored_bytes:
        return
    # Locked, so that two submissions do not both take what is left for one.
    transaction.execute(
        select(owner_rows.c.id).where(owner_rows.c.id == owner_id).with_for_update()
    )
    used = usage(transaction, owner_id)
    if limits.max_queued_items and used.queued_items + new_items > limits.max_queued_items:
        raise QuotaExceeded(
            f"{used.queued_items} items wait already and {new_items} more would pass the"
            f" {limits.max_queued_items} that this owner may have; try again when some are done",
            quota="queued-items",
            most=limits.max_queued_items,
            left=max(0, limits.max_queued_items - used.queued_items),
        )
    _check_stored(limits, used, 0)


def check_upload(transaction: Connection, owner_id: int, usual: Limits, size_bytes: int) -> None:
    """Refuse bytes beyond what an owner may have stored.

    Raises:
        QuotaExceeded: Not before something is deleted.
    """
    limits = of(transaction, owner_id, usual)
    if limits.max_stored_bytes:
        _check_stored(limits, usage(transaction, owner_id), size_bytes)


def _check_stored(limits: Limits, used: Usage, more: int) -> None:
    most = limits.max_stored_bytes
    if most and used.stored_bytes + more > most:
        raise QuotaExceeded(
            f"{used.stored_bytes} bytes are stored already and {more} more would pass the {most}"
            " that this owner may have: delete jobs, images or files",
            quota="stored-bytes",
            most=most,
            left=max(0, most - used.stored_bytes),
        )
