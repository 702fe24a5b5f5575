"""The way of jobs and chats into the queue; upkeep checks batches, and makes jobs of them.

checked items ─▶ spool, if they are many ─▶ quota ─▶ job ─▶ wake the workers
                                              └── refused, or repeated: the spool is deleted

Only a retry copies items within the database: see db/queue/submissions.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from api.services import Services
from db import failpoints
from db.metrics import ITEMS_ACCEPTED
from db.queue import quotas, sessions, submissions
from db.queue.data_images import DataImages
from db.queue.item_checker import ItemChecker, choose_model
from db.queue.spools import SpoolWriter
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Transaction
from db.vocabulary.errors import RequestError
from db.vocabulary.requests import Request
from workers.broker import INTAKE, UPKEEP, engine_queue

NO_DEFAULTS = Request()


def open_checker(
    services: Services, owner_id: int, model: str | None, defaults: Request = NO_DEFAULTS
) -> ItemChecker:
    """Return what checks the items of a job for a model, or for the only one.

    Raises:
        UnknownModel: There is no such model, or the choice is not clear.
    """
    name = services.settings.resolve_alias(model) if model else None
    with services.database.snapshot() as transaction:
        card = choose_model(sessions.offers(transaction), name)
    images = DataImages(
        services.database,
        services.store,
        owner_id,
        services.limits,
        services.settings.max_upload_bytes,
    )
    return ItemChecker(card, images, defaults)


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


def accept_spool(services: Services, job: NewJob, spool: SpoolWriter) -> str:
    """Store a spool, and create the job into which upkeep imports it; see `accept`."""
    key = spool.store(services.store, job.owner_id)
    job = replace(job, spool_key=key, spool_lines=spool.count)
    try:
        job_id, is_new = _create(
            services,
            job,
            spool.count,
            lambda transaction: submissions.create_once(transaction, job),
        )
    except RequestError:
        services.store.delete(key)
        raise
    if not is_new:
        services.store.delete(key)
    failpoints.trigger("submitted")
    services.wakes.wake(UPKEEP)
    return job_id


def _create(
    services: Services,
    job: NewJob,
    new_items: int,
    create: Callable[[Transaction], tuple[str, bool]],
) -> tuple[str, bool]:
    with services.database.transaction() as transaction:
        if submissions.submitted_before(transaction, job) is None:
            quotas.check_submission(transaction, job.owner_id, services.limits, new_items)
        job_id, is_new = create(transaction)
    if is_new:
        ITEMS_ACCEPTED.labels(job.source_api).inc(new_items)
    return job_id, is_new


def wake_workers(services: Services, model: str) -> None:
    """Wake the workers that have work with a job whose items are all in the queue."""
    failpoints.trigger("submitted")
    services.wakes.wake(INTAKE, engine_queue(model))
