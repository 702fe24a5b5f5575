"""Submissions: jobs and their items become claimable.

    create ─▶ one page, or many from a spool ─▶ seal ─▶ claimable

A job is claimable, and can finish, only once it is sealed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from db import tracing
from db.images import known_images
from db.queue import counts
from db.queue.jobs import PRIORITY_SECONDS, Job, new_id
from db.sql.clock import after, now
from db.tables import items, jobs
from db.vocabulary.errors import IdempotencyConflict
from db.vocabulary.lines import json_text
from db.vocabulary.requests import (
    blob_digests,
    effective,
    example_references,
    image_references,
    options_digest,
)
from db.vocabulary.states import ItemState, ModelChanged, SourceApi, Stage

#: Above this many rows Postgres takes them by COPY.
COPY_ROWS = 200


@dataclass(frozen=True, slots=True)
class NewItem:
    """A submitted item: a canonical request and the caller's own id."""

    request: dict[str, Any]
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A submitted job.

    Attributes:
        body_digest: SHA-256 of the whole submission; with `idempotency_key` it tells a repeated
            submission from another one under the same key.
        spool_key: Where a streamed submission waits for its import, with `spool_lines` lines.
        source: `s3://bucket/prefix`, if the items are the images to be found there.
        source_api: The API through which it was submitted.
        priority: Each step is worth `PRIORITY_SECONDS` of waiting.
        expires_seconds: Items that are not running this long after the submission are
            cancelled.
        pause_on_issues: Share of answers with issues above which the job pauses itself.
        model_changed: What it does when no engine serves the variant any more that answered first.
    """

    owner_id: int
    model: str
    defaults: dict[str, Any]
    name: str = ""
    idempotency_key: str | None = None
    body_digest: str | None = None
    spool_key: str | None = None
    spool_lines: int = 0
    source: str | None = None
    source_api: SourceApi = SourceApi.JOB
    priority: int = 0
    expires_seconds: float | None = None
    pause_on_issues: float | None = None
    model_changed: ModelChanged = ModelChanged.CONTINUE


def create(transaction: Connection, job: NewJob) -> str:
    """Insert an unsealed job without items, with the request's trace context. Returns its id."""
    job_id = new_id("job_")
    values = {field.name: getattr(job, field.name) for field in fields(NewJob)}
    expires_seconds = values.pop("expires_seconds")
    transaction.execute(
        insert(jobs).values(
            id=job_id,
            created_at=now(),
            rank_at=after(-PRIORITY_SECONDS * job.priority),
            expires_at=None if expires_seconds is None else after(expires_seconds),
            origin=values.pop("source_api"),
            traceparent=tracing.current(),
            **values,
        )
    )
    return job_id


def create_once(transaction: Connection, job: NewJob) -> tuple[str, bool]:
    """Create a job, or return the one that an earlier submission with the same key created.

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


def submit(transaction: Connection, job: NewJob, new_items: Sequence[NewItem]) -> tuple[str, bool]:
    """Submit a small job completely, with all its items, sealed; see `create_once`."""
    job_id, created = create_once(transaction, job)
    if created:
        insert_items(transaction, job_id, job, 0, new_items)
        seal(transaction, job_id)
    return job_id, created


def submitted_before(transaction: Connection, job: NewJob) -> str | None:
    """Return the job that an earlier submission with the same key created, if any.

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


def seal(transaction: Connection, job_id: str) -> None:
    """Seal a job: no more items will come. Safe to repeat; a job without items finishes at once.

    Writes only if the whole spool was imported and the whole source listed, or the job was
    cancelled before that.
    """
    transaction.execute(
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.sealed_at.is_(None),
            or_(
                and_(
                    jobs.c.spool_offset == jobs.c.spool_lines,
                    or_(jobs.c.source.is_(None), jobs.c.listed_at.is_not(None)),
                ),
                jobs.c.cancelled_at.is_not(None),
            ),
        )
        .values(sealed_at=now())
    )
    counts.finish_if_done(transaction, [job_id])


def insert_items(
    transaction: Connection,
    job_id: str,
    job: NewJob | Job,
    offset: int,
    new_items: Sequence[NewItem],
) -> None:
    """Add items to an unsealed job and count them; the first has number `offset`."""
    due = transaction.execute(select(now())).scalar_one()
    asked = [effective(job.defaults, item.request) for item in new_items]
    shared = example_references(job.defaults)
    named = {
        reference
        for request in asked
        for reference in (*image_references(request), *example_references(request))
    }
    everything = named | {*shared}
    known_images.mark_used(transaction, job.owner_id, blob_digests(everything))
    checked = known_images.checked(transaction, job.owner_id, everything)
    if shared and checked.issuperset(shared):
        transaction.execute(update(jobs).where(jobs.c.id == job_id).values(examples=shared))
    rows = []
    for index, (item, request) in enumerate(zip(new_items, asked, strict=True)):
        images, examples = image_references(request), example_references(request)
        # What intake has checked before needs no intake again.
        ready = checked.issuperset([*images, *examples]) and "refused" not in request
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
                "examples": examples if ready and "examples" in item.request else None,
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
    return json_text(value) if isinstance(value, dict | list) else value
