"""OpenAI's batches. Every line is checked when the batch is created, so errors show at once."""

import hashlib
from typing import Annotated
from weakref import WeakValueDictionary

import anyio
from fastapi import APIRouter, Header, Query, Request
from pydantic import ValidationError

from api.errors import request_error
from api.openai.batch_input import BatchIn, BatchInput
from api.openai.schemas import BatchOut, BatchPage
from api.services import CurrentOwner, Parts, Services
from db.blobs.store import file_key
from db.openai import batches, files
from db.openai.batch import NewBatch
from db.shares import FairTurns
from db.vocabulary.errors import RequestError
from workers.broker import UPKEEP

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"])

#: Input files are checked two at a time, a slice of each owner's in turn.
READING = FairTurns(2)
#: Owners whose files are checked or wait for that; an owner's own files wait without a thread.
_THREADS = anyio.CapacityLimiter(16)
_OF_OWNER: WeakValueDictionary[int, anyio.Lock] = WeakValueDictionary()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchIn"}}},
    }
}


@router.post("", openapi_extra=_BODY)
async def create_batch(
    request: Request,
    services: Parts,
    owner: CurrentOwner,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    retry: Annotated[int, Header(alias="x-stainless-retry-count", include_in_schema=False)] = 0,
) -> BatchOut:
    """Create a batch, or fail it with every error named.

    The same request makes one batch: always if it carries an `Idempotency-Key` or is a retry of
    the client's own, and otherwise as long as the first one runs.
    """
    body = await request.body()
    try:
        asked = BatchIn.model_validate_json(body)
    except ValidationError as error:
        raise request_error(error, body) from error
    digest = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
    expires = asked.output_expires_after
    new = NewBatch(
        owner.id,
        asked.input_file_id,
        asked.endpoint,
        asked.completion_window,
        asked.window_seconds,
        asked.metadata,
        expires.seconds if expires else None,
        request_key=f"key:{idempotency_key}" if idempotency_key else f"body:{digest}",
        body_digest=digest,
    )
    again = bool(idempotency_key) or retry > 0
    async with _OF_OWNER.setdefault(owner.id, anyio.Lock()):
        return await anyio.to_thread.run_sync(_create, services, new, again, limiter=_THREADS)


def _create(services: Services, new: NewBatch, again: bool) -> BatchOut:
    with services.database.transaction() as transaction:
        if earlier := batches.find_same(transaction, new, again=again):
            return BatchOut.of(earlier)
        file = files.get(transaction, new.owner_id, new.input_file_id)
    if file.purpose != "batch":
        raise RequestError(f"{file.id} is not the input file of a batch", field="input_file_id")
    with BatchInput(services, new.owner_id, new.endpoint) as lines:
        with (
            READING.holding(new.owner_id),
            services.store.open(file_key(new.owner_id, file.id)) as stream,
        ):
            for _ in lines.read(stream):
                READING.yielding(new.owner_id)
        return lines.submit(new, again=again)


@router.get("")
def list_batches(
    services: Parts,
    owner: CurrentOwner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> BatchPage:
    """List the owner's batches, newest first."""
    with services.database.snapshot() as transaction:
        found = batches.page(transaction, owner.id, before=after, limit=limit + 1)
    return BatchPage.of([BatchOut.of(batch) for batch in found[:limit]], more=len(found) > limit)


@router.get("/{batch_id}")
def get_batch(batch_id: str, services: Parts, owner: CurrentOwner) -> BatchOut:
    """Return a batch and its counts."""
    with services.database.snapshot() as transaction:
        return BatchOut.of(batches.get(transaction, owner.id, batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, services: Parts, owner: CurrentOwner) -> BatchOut:
    """Cancel a batch. Answers so far go into the output file."""
    with services.database.transaction() as transaction:
        batch = batches.cancel(transaction, owner.id, batch_id)
    services.wakes.wake(UPKEEP)
    if batch.job_id:
        services.notices.changed(batch.job_id)
    return BatchOut.of(batch)
