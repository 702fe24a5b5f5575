"""OpenAI's batches. Upkeep checks the input file of a batch while it is `validating`."""

import hashlib
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from api.openai.schemas import BatchIn, BatchOut, BatchPage
from api.services import CurrentOwner, Parts, Services
from db.openai import batches, files
from db.openai.batch import NewBatch
from db.owners import Owner
from db.queue import quotas
from db.vocabulary.errors import RequestError
from db.vocabulary.validation_errors import request_error
from workers.broker import UPKEEP

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"])

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
    """Create a batch. Then its file is checked: it runs, or fails with every mistake named.

    The same request makes one batch: always if it carries an `Idempotency-Key` or is a retry of
    the client's own, and otherwise as long as the first one runs.
    """
    body = await request.body()
    try:
        asked = BatchIn.model_validate_json(body)
    except ValidationError as error:
        raise request_error(error, body) from error
    again = bool(idempotency_key) or retry > 0
    return await run_in_threadpool(_create, services, owner, asked, idempotency_key, again)


def _create(
    services: Services, owner: Owner, asked: BatchIn, idempotency_key: str | None, again: bool
) -> BatchOut:
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
    with services.database.transaction() as transaction:
        if earlier := batches.find_same(transaction, new, again=again):
            return BatchOut.of(earlier)
        file = files.get(transaction, owner.id, new.input_file_id)
        if file.purpose != "batch":
            raise RequestError(f"{file.id} is not the input file of a batch", field="input_file_id")
        quotas.check_submission(transaction, owner.id, services.limits, 1)
        new = replace(new, input_bytes=file.size_bytes)
        batch = batches.create_once(transaction, new, again=again)
    services.wakes.wake(UPKEEP)
    return BatchOut.of(batch)


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
