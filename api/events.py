"""Server-sent events: counts and results of a job as they come.

event: counts   data: the job                     whenever they have changed
event: item     data: a result      id: N         in the order in which items finish
event: end      data: the job       id: end       the last one

A client that comes back with `Last-Event-ID: N` misses nothing and gets nothing twice.
"""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.schemas import JobOut
from api.services import CurrentOwner, Parts, Services
from db.queue import jobs
from db.queue.jobs import Job
from db.vocabulary.errors import RequestError
from db.vocabulary.lines import json_line

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MEDIA_TYPE = "text/event-stream"
#: Proxies must not gather what is meant to arrive at once.
HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
#: A comment is sent when there was nothing else for so long, so that proxies keep the line open.
PING_SECONDS = 15.0
END_ID = "end"


def event(data: str, *, name: str | None = None, number: str | None = None) -> bytes:
    """Render one event. `data` is JSON and so has no line breaks."""
    head = f"event: {name}\n" if name else ""
    head += f"id: {number}\n" if number else ""
    return f"{head}data: {data}\n\n".encode()


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}},
)
async def get_events(
    job_id: str,
    services: Parts,
    owner: CurrentOwner,
    last_event_id: Annotated[str | None, Header(description="Go on after this event")] = None,
) -> Response:
    """What happens to a job: events `counts`, `item` and `end`, as `text/event-stream`.

    204 if the `end` was seen: it tells browsers not to come back.
    """

    def look() -> None:
        with services.database.snapshot() as transaction:
            jobs.get(transaction, owner.id, job_id)

    await run_in_threadpool(look)
    if last_event_id == END_ID:
        return Response(status_code=204)
    events = _events(services, job_id, _number(last_event_id))
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)


def _number(last_event_id: str | None) -> int:
    if last_event_id and not re.fullmatch(r"[0-9]{1,18}", last_event_id):
        raise RequestError(f"invalid Last-Event-ID: {last_event_id!r}", field="Last-Event-ID")
    return int(last_event_id or 0)


async def _events(services: Services, job_id: str, number: int) -> AsyncIterator[bytes]:
    async with services.watch.watching(job_id) as watched:
        shown: Job | None = None
        while True:
            news = watched.event
            job = watched.job
            if job and job != shown:
                shown = job
                yield event(_json(services, job), name="counts")
                while number < job.results:
                    page = await services.watch.results(job_id, number)
                    for place, line in page:
                        yield event(line.decode().rstrip(), name="item", number=str(place))
                    # Numbers of lost leases stay unused; what this job's row counts is there.
                    number = page[-1][0] if page else job.results
                if job.finished_at:
                    yield event(_json(services, job), name="end", number=END_ID)
                    return
            if not await watched.news(news, PING_SECONDS):
                yield b": still here\n\n"


def _json(services: Services, job: Job) -> str:
    return json_line(JobOut.of(job, services.settings).model_dump(mode="json")).decode()
