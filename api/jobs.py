"""Jobs: submit, inspect, read results, steer."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, StringConstraints
from starlette.concurrency import run_in_threadpool

from api.acceptance import wake_workers
from api.audit import record_action
from api.guard import NDJSON
from api.header_fields import media_type, wait_seconds
from api.schemas import (
    After,
    IssueFilter,
    JobIn,
    JobOut,
    JobPage,
    JobPatch,
    Limit,
    RetryIn,
    SubmissionIn,
    decode_cursor,
    encode_cursor,
)
from api.services import CurrentOwner, Parts, Services, Submitter
from api.streams import PIECE_BYTES
from api.submissions import Envelope, Spool, submit_json
from db.audit import AuditAction
from db.queue import job_lists, jobs, retention, retries, sessions
from db.queue.item_checker import choose_model
from db.queue.job_lists import JobFilter
from db.queue.retries import Retry
from db.vocabulary.errors import WrongMediaType
from db.vocabulary.field_types import no_nul
from db.vocabulary.request_validation import SAMPLING_OPTIONS, validate_request
from db.vocabulary.requests import ItemIn
from db.vocabulary.states import JobState
from workers.broker import INTAKE, UPKEEP, engine_queue

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

#: What `Retry-After` says on 202: how soon it makes sense to look.
LOOK_AFTER_SECONDS = 1

IdempotencyKey = Annotated[
    str | None,
    Header(max_length=255, description="The same key with the same body makes one job"),
]
Prefer = Annotated[
    str | None, Header(description="`wait=n`: answer when the job has finished, or after n seconds")
]
StateFilter = Annotated[
    list[JobState] | None,
    Query(description="Only jobs in one of these states", max_length=len(JobState)),
]
ExactName = Annotated[
    str | None, Query(description="Only jobs of this name", max_length=200), AfterValidator(no_nul)
]
ExactModel = Annotated[
    str | None,
    Query(description="Only jobs of this model", max_length=200),
    AfterValidator(no_nul),
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
    sent = media_type(request.headers.get("content-type"))
    if sent == NDJSON:
        job_id = await _spool(request, services, envelope)
    elif sent == "application/json":
        job_id = await run_in_threadpool(submit_json, services, envelope, await request.body())
    else:
        raise WrongMediaType(f"send application/json or {NDJSON}, not {sent or 'nothing'}")
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
def list_jobs(  # noqa: PLR0913 - parameters of the route
    services: Parts,
    owner: CurrentOwner,
    limit: Limit = 20,
    after: After = None,
    state: StateFilter = None,
    name: ExactName = None,
    model: ExactModel = None,
) -> JobPage:
    """List the owner's jobs, newest first; all of them, or those of a state, name or model."""
    only = JobFilter(state, name, services.settings.resolve_alias(model) if model else None)
    before = decode_cursor(after) if after else None
    with services.database.snapshot() as transaction:
        found = job_lists.page(transaction, owner.id, before=before, limit=limit + 1, only=only)
    shown, more = found[:limit], len(found) > limit
    return JobPage(
        data=[JobOut.of(job, services.settings) for job in shown],
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
            return JobOut.of(jobs.get(transaction, owner_id, job_id), services.settings)

    shown = await run_in_threadpool(look)
    headers = {}
    if seconds := min(wait_seconds(prefer), services.settings.max_wait_seconds):
        if shown.finished_at is None:
            await services.watch.finished(job_id, seconds)
            shown = await run_in_threadpool(look)
        headers["Preference-Applied"] = f"wait={seconds}"
    pending = created and shown.finished_at is None
    if created:
        headers["Location"] = f"/v1/jobs/{job_id}"
    if pending:
        headers["Retry-After"] = str(LOOK_AFTER_SECONDS)
    waited_out = created and not pending and "Preference-Applied" in headers
    status = 202 if created and not waited_out else 200
    return JSONResponse(shown.model_dump(mode="json"), status, headers=headers)


@router.patch("/{job_id}")
def change(job_id: str, wanted: JobPatch, services: Parts, owner: CurrentOwner) -> JobOut:
    """Change the priority of a job, from the next claim on."""
    with services.database.transaction() as transaction:
        job = jobs.prioritize(transaction, owner.id, job_id, wanted.priority)
    return JobOut.of(job, services.settings)


@router.delete("/{job_id}", status_code=204)
def delete(job_id: str, services: Parts, caller: Submitter) -> None:
    """Delete a finished job with its items and results. Its unused images are collected later."""
    with services.database.transaction() as transaction:
        retention.soft_delete_job(transaction, caller.owner.id, job_id)
        record_action(transaction, caller, AuditAction.DELETE_JOB, job_id)
    services.wakes.wake(UPKEEP)


@router.post("/{job_id}/cancel")
def cancel(job_id: str, services: Parts, owner: CurrentOwner) -> JobOut:
    """Cancel a job: start no more of its items. Answers are kept; running items finish."""
    with services.database.transaction() as transaction:
        job = jobs.cancel(transaction, owner.id, job_id)
    services.wakes.wake(UPKEEP)
    services.notices.changed(job_id)
    return JobOut.of(job, services.settings)


@router.post("/{job_id}/pause")
def pause(job_id: str, services: Parts, owner: CurrentOwner) -> JobOut:
    """Pause a job: start no more of its items until it is resumed."""
    with services.database.transaction() as transaction:
        job = jobs.pause(transaction, owner.id, job_id, paused=True)
    services.notices.changed(job_id)
    return JobOut.of(job, services.settings)


@router.post("/{job_id}/resume")
def resume(job_id: str, services: Parts, owner: CurrentOwner) -> JobOut:
    """Resume a paused job."""
    with services.database.transaction() as transaction:
        job = jobs.pause(transaction, owner.id, job_id, paused=False)
    services.wakes.wake(INTAKE, engine_queue(job.model))
    services.notices.changed(job_id)
    return JobOut.of(job, services.settings)


@router.post("/{job_id}/retry", status_code=202, response_model=JobOut)
def retry(  # noqa: PLR0913 - parameters of the route
    job_id: str,
    services: Parts,
    owner: CurrentOwner,
    code: Annotated[
        list[ErrorCode] | None,
        Query(description="Only failed items with these errors", max_length=50),
    ] = None,
    issue: IssueFilter = None,
    changes: RetryIn | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit items of a finished job again, as a new job.

    The failed ones; or with `issue` answers that have an issue, and failed ones only if `code`
    names their errors. The body may hold other options for them.
    """
    wanted = Retry(code or (), issue or (), _retry_options(changes))
    with services.database.transaction() as transaction:
        earlier = jobs.get(transaction, owner.id, job_id)
        model = choose_model(sessions.offers(transaction), earlier.model)
        new_id = retries.retry(
            transaction,
            earlier,
            wanted,
            _unquoted(idempotency_key),
            services.limits,
            lambda request: validate_request(request, model),
        )
        job = jobs.get(transaction, owner.id, new_id)
    wake_workers(services, job.model)
    shown = JobOut.of(job, services.settings).model_dump(mode="json")
    return JSONResponse(shown, 202, headers={"Location": f"/v1/jobs/{new_id}"})


def _retry_options(changes: RetryIn | None) -> dict[str, Any]:
    given = changes.options if changes else None
    options = given.model_dump(exclude_none=True) if given else {}
    if SAMPLING_OPTIONS.intersection(options):
        options.setdefault("do_sample", True)
    return options


def _unquoted(idempotency_key: str | None) -> str | None:
    """Accept the key with or without the quotes of the standard's form."""
    return idempotency_key.strip('"') if idempotency_key else None


#: Models that only the hand-written request body names.
SCHEMAS = (SubmissionIn, ItemIn, JobIn)
