"""Jobs: submit, inspect, read results, steer."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import StringConstraints
from starlette.concurrency import run_in_threadpool

from api.guard import NDJSON
from api.schemas import (
    PAGE_LIMIT,
    After,
    Index,
    ItemIn,
    JobIn,
    JobOut,
    JobPage,
    JobPatch,
    Limit,
    ResultPage,
    SubmissionIn,
    decode_cursor,
    encode_cursor,
)
from api.services import CurrentOwner, Parts, Services
from api.streams import PIECE_BYTES, pieces
from api.submissions import Envelope, Spool, submit_json, tell_submitted
from db import jobs, results, retention, submissions
from db.errors import NotReady, RequestError, WrongMediaType
from db.results import Item
from workers.broker import INTAKE, UPKEEP, engine_queue

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

#: What `Retry-After` says on 202: how soon it makes sense to look.
RETRY_AFTER_SECONDS = 1

IdempotencyKey = Annotated[
    str | None,
    Header(max_length=255, description="The same key with the same body makes one job"),
]
Prefer = Annotated[
    str | None, Header(description="`wait=n`: answer when the job has finished, or after n seconds")
]
ErrorCode = Annotated[str, StringConstraints(pattern="^[a-z_]{1,40}$")]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SubmissionIn"}},
            NDJSON: {
                "schema": {"$ref": "#/components/schemas/ItemIn"},
                "examples": {
                    "stream": {
                        "summary": 'One item a line; the first line may be {"job": …}',
                        "value": '{"job": {"model": "demo"}}\n{"images": ["https://…"]}\n',
                    }
                },
            },
        },
    }
}


@router.post("", status_code=202, response_model=JobOut, openapi_extra=_BODY)
async def submit(
    request: Request,
    services: Parts,
    owner: CurrentOwner,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Submit a job: a JSON document, or a stream of items as `application/x-ndjson`.

    202 means that it is durable. Nothing of a body with a mistake in it is kept.
    """
    envelope = Envelope(owner.id, _unquoted(idempotency_key))
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type == NDJSON:
        job_id = await _spool(request, services, envelope)
    elif media_type == "application/json":
        job_id = await run_in_threadpool(submit_json, services, envelope, await request.body())
    else:
        raise WrongMediaType(f"send application/json or {NDJSON}, not {media_type or 'nothing'}")
    return await _shown(services, owner.id, job_id, prefer, created=True)


async def _spool(request: Request, services: Services, envelope: Envelope) -> str:
    """Receive a stream in pieces. No thread and no transaction waits for a slow client."""
    spool = Spool(services, envelope)
    piece = bytearray()
    try:
        async for data in request.stream():
            piece += data
            if len(piece) >= PIECE_BYTES:
                await run_in_threadpool(spool.feed, bytes(piece))
                piece.clear()
        await run_in_threadpool(spool.feed, bytes(piece))
        return await run_in_threadpool(spool.finish)
    finally:
        spool.discard()


@router.get("")
def list_jobs(
    services: Parts, owner: CurrentOwner, limit: Limit = 20, after: After = None
) -> JobPage:
    """List the owner's jobs, newest first."""
    before = decode_cursor(after) if after else None
    with services.database.snapshot() as transaction:
        found = jobs.page(transaction, owner.id, before=before, limit=limit + 1)
    shown, more = found[:limit], len(found) > limit
    return JobPage(
        data=[JobOut.of(job) for job in shown],
        has_more=more,
        next=encode_cursor(shown[-1].id) if more else None,
    )


@router.get("/{job_id}", response_model=JobOut)
async def get_job(
    job_id: str, services: Parts, owner: CurrentOwner, prefer: Prefer = None
) -> Response:
    """Return a job with counts, rate and time left; with `Prefer: wait=n`, when it has finished."""
    return await _shown(services, owner.id, job_id, prefer, created=False)


async def _shown(
    services: Services, owner_id: int, job_id: str, prefer: str | None, *, created: bool
) -> Response:
    def look() -> JobOut:
        with services.database.snapshot() as transaction:
            return JobOut.of(jobs.get(transaction, owner_id, job_id))

    shown = await run_in_threadpool(look)
    headers = {}
    if seconds := _wait_seconds(prefer, services.settings.max_wait_seconds):
        if shown.finished_at is None:
            await services.watch.finished(job_id, seconds)
            shown = await run_in_threadpool(look)
        headers["Preference-Applied"] = f"wait={seconds}"
    pending = created and shown.finished_at is None
    if created:
        headers["Location"] = f"/v1/jobs/{job_id}"
    if pending:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    waited_out = created and not pending and "Preference-Applied" in headers
    status = 202 if created and not waited_out else 200
    return JSONResponse(shown.model_dump(mode="json"), status, headers=headers)


def _wait_seconds(prefer: str | None, most: int) -> int:
    matched = re.search(r"(?:^|[,;\s])wait=(\d{1,6})", prefer or "")
    return min(int(matched[1]), most) if matched else 0


@router.get("/{job_id}/results")
def get_results(
    request: Request,
    job_id: str,
    services: Parts,
    owner: CurrentOwner,
    limit: Limit = 100,
    after: After = None,
) -> ResultPage:
    """Return results so far, in the order in which items finished; a cursor misses none.

    With `Accept: application/x-ndjson` all of them from the cursor on, one a line; the header
    `X-Incomplete` says whether more will come.
    """
    number = _number(after)
    with services.database.snapshot() as transaction:
        job = jobs.get(transaction, owner.id, job_id)
        if NDJSON in request.headers.get("accept", ""):
            headers = {"X-Incomplete": "false" if job.finished_at else "true"}
            return StreamingResponse(  # type: ignore[return-value]  # not what the schema describes
                _lines(services, job_id, number), media_type=NDJSON, headers=headers
            )
        page = results.finished_after(transaction, job_id, number=number, limit=limit + 1)
    shown = page[:limit]
    last = shown[-1].result_number or number if shown else number
    return ResultPage(
        data=[item.public() for item in shown],
        complete=job.finished_at is not None and len(page) <= limit,
        next=encode_cursor(str(last)),
    )


def _number(after: str | None) -> int:
    text = decode_cursor(after) if after else "0"
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise RequestError(f"invalid cursor of results: {after!r}", field="after")
    return int(text)


def _lines(services: Services, job_id: str, number: int) -> Iterator[bytes]:
    pages = results.pages_as_finished(services.database, job_id, PAGE_LIMIT, number=number)
    for page in pages:
        yield b"".join(item.line() for item in page)


@router.get("/{job_id}/results.jsonl", response_class=StreamingResponse)
def get_results_file(job_id: str, services: Parts, owner: CurrentOwner) -> StreamingResponse:
    """Return all results of a finished job, in the order of the submission."""
    with services.database.snapshot() as transaction:
        job = jobs.get(transaction, owner.id, job_id)
    if job.finished_at is None:
        raise NotReady(f"job {job_id} is {job.state}; its results so far are at …/results")
    if job.results_key:
        shown = pieces(services.store.open(job.results_key))
    else:  # upkeep has not written the file yet
        shown = _lines_in_order(services, job_id)
    name = f'attachment; filename="{job_id}.jsonl"'
    return StreamingResponse(shown, media_type=NDJSON, headers={"Content-Disposition": name})


def _lines_in_order(services: Services, job_id: str) -> Iterator[bytes]:
    for page in results.pages_in_order(services.database, job_id, PAGE_LIMIT):
        yield b"".join(item.line() for item in page)


@router.get("/{job_id}/items/{index}")
def get_item(job_id: str, index: Index, services: Parts, owner: CurrentOwner) -> dict[str, Any]:
    """Return one item in any state."""
    with services.database.snapshot() as transaction:
        item: Item = results.get(transaction, owner.id, job_id, index)
    return {**item.public(), "stage": item.stage, "request": item.request}


@router.patch("/{job_id}")
def change(job_id: str, wanted: JobPatch, services: Parts, owner: CurrentOwner) -> JobOut:
    """Change the priority of a job, from the next claim on."""
    with services.database.transaction() as transaction:
        return JobOut.of(jobs.prioritize(transaction, owner.id, job_id, wanted.priority))


@router.delete("/{job_id}", status_code=204)
def delete(job_id: str, services: Parts, owner: CurrentOwner) -> None:
    """Delete a finished job with its items and results. Its unused images are collected later."""
    with services.database.transaction() as transaction:
        retention.soft_delete_job(transaction, owner.id, job_id)
    services.wakes.wake(UPKEEP)


@router.post("/{job_id}/cancel")
def cancel(job_id: str, services: Parts, owner: CurrentOwner) -> JobOut:
    """Cancel a job: start no more of its items. Answers are kept; running items finish."""
    with services.database.transaction() as transaction:
        job = jobs.cancel(transaction, owner.id, job_id)
    services.wakes.wake(UPKEEP)
    services.notices.changed(job_id)
    return JobOut.of(job)


@router.post("/{job_id}/pause")
def pause(job_id: str, services: Parts, owner: CurrentOwner) -> JobOut:
    """Pause a job: start no more of its items until it is resumed."""
    with services.database.transaction() as transaction:
        job = jobs.pause(transaction, owner.id, job_id, paused=True)
    services.notices.changed(job_id)
    return JobOut.of(job)


@router.post("/{job_id}/resume")
def resume(job_id: str, services: Parts, owner: CurrentOwner) -> JobOut:
    """Resume a paused job."""
    with services.database.transaction() as transaction:
        job = jobs.pause(transaction, owner.id, job_id, paused=False)
    services.wakes.wake(INTAKE, engine_queue(job.model))
    services.notices.changed(job_id)
    return JobOut.of(job)


@router.post("/{job_id}/retry", status_code=202, response_model=JobOut)
def retry(
    job_id: str,
    services: Parts,
    owner: CurrentOwner,
    code: Annotated[
        list[ErrorCode] | None, Query(description="Only these errors", max_length=50)
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit the failed items of a finished job again, as a new job."""
    with services.database.transaction() as transaction:
        earlier = jobs.get(transaction, owner.id, job_id)
        new_id = submissions.retry(
            transaction, earlier, code or (), _unquoted(idempotency_key), services.limits
        )
        job = jobs.get(transaction, owner.id, new_id)
    tell_submitted(services, job.model)
    shown = JobOut.of(job).model_dump(mode="json")
    return JSONResponse(shown, 202, headers={"Location": f"/v1/jobs/{new_id}"})


def _unquoted(idempotency_key: str | None) -> str | None:
    """Accept the key with or without the quotes of the standard's form."""
    return idempotency_key.strip('"') if idempotency_key else None


#: Models that only the hand-written request body names.
SCHEMAS = (SubmissionIn, ItemIn, JobIn)
