"""The one way into the queue, whichever interface a submission came through.

checked items ─▶ spool, if they are many ─▶ quota ─▶ job ─▶ wake the workers
                                              └── refused, or repeated: the spool is deleted

Only a retry copies items within the database: see db/queue/submissions.py.
"""

import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import orjson

from api.metrics import ITEMS_ACCEPTED
from api.services import Services
from db import failpoints
from db.blobs.store import BlobStore, spool_key
from db.queue import quotas, submissions
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Transaction
from db.vocabulary.errors import RequestError
from workers.broker import INTAKE, UPKEEP, engine_queue

Created = TypeVar("Created")


class SpoolWriter:
    """Checked items on their way into the blob store, from where upkeep imports them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by its owner
        self.count = 0

    def add(self, item: NewItem) -> None:
        """Add one item."""
        kept = {"request": item.request, "custom_id": item.custom_id}
        self._file.write(orjson.dumps(kept) + b"\n")
        self.count += 1

    def store(self, store: BlobStore, owner_id: int) -> str:
        """Store the items durably. Returns their key."""
        key = spool_key(owner_id, secrets.token_hex(16))
        self._file.seek(0)
        store.put(key, self._file)
        return key

    def close(self) -> None:
        """Discard the items that were not stored."""
        self._file.close()


def accept(services: Services, job: NewJob, items: Sequence[NewItem] = ()) -> str:
    """Create a job with its items, or with a source that upkeep will list. Returns its id.

    Raises:
        QuotaExceeded: Its owner has too much in the queue now.
        TooLarge: No job of this owner may have so many items.
        IdempotencyConflict: The key was used with another body.
    """

    def create(transaction: Transaction) -> tuple[str, bool]:
        if job.source:
            return submissions.create_once(transaction, job)
        return submissions.submit(transaction, job, items)

    job_id, _ = _create(services, job, len(items), create)
    if job.source:
        services.wakes.wake(UPKEEP)
    else:
        wake_workers(services, job.model)
    return job_id


def accept_spool(
    services: Services,
    job: NewJob,
    spool: SpoolWriter,
    create: Callable[[Transaction, NewJob], tuple[Created, bool]],
) -> Created:
    """Store a spool, and create the job into which upkeep imports it; see `accept`.

    Args:
        create: Creates what belongs to the job, and returns it; False if it was there before.
    """
    key = spool.store(services.store, job.owner_id)
    job = replace(job, spool_key=key, spool_lines=spool.count)
    try:
        created, is_new = _create(
            services, job, spool.count, lambda transaction: create(transaction, job)
        )
    except RequestError:
        services.store.delete(key)
        raise
    if not is_new:
        services.store.delete(key)
    failpoints.trigger("submitted")
    services.wakes.wake(UPKEEP)
    return created


def _create(
    services: Services,
    job: NewJob,
    new_items: int,
    create: Callable[[Transaction], tuple[Created, bool]],
) -> tuple[Created, bool]:
    with services.database.transaction() as transaction:
        if submissions.submitted_before(transaction, job) is None:
            quotas.check_submission(transaction, job.owner_id, services.limits, new_items)
        created, is_new = create(transaction)
    if is_new:
        ITEMS_ACCEPTED.labels(job.source_api).inc(new_items)
    return created, is_new


def wake_workers(services: Services, model: str) -> None:
    """Wake the workers that have work with a job whose items are all in the queue."""
    failpoints.trigger("submitted")
    services.wakes.wake(INTAKE, engine_queue(model))
