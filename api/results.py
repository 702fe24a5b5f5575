"""Results of jobs: page by page, as a stream, as a file, or of one item."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from api.guard import NDJSON
from api.header_fields import accepts
from api.schemas import (
    PAGE_LIMIT,
    After,
    Index,
    IssueFilter,
    Limit,
    ResultPage,
    decode_cursor,
    encode_cursor,
)
from api.services import CurrentOwner, Parts, Services
from api.streams import pieces
from db.queue import jobs, results
from db.vocabulary.errors import NotReady, RequestError
from db.vocabulary.items import Item
from db.vocabulary.structures import shown

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job_id}/results")
def get_results(  # noqa: PLR0913 - parameters of the route
    request: Request,
    job_id: str,
    services: Parts,
    owner: CurrentOwner,
    limit: Limit = 100,
    after: After = None,
    issue: IssueFilter = None,
) -> ResultPage:
    """Return results so far, in the order in which items finished; a cursor misses none.

    With `Accept: application/x-ndjson` all of them from the cursor on, one a line; the header
    `X-Incomplete` says whether more will come.
    """
    number = _number(after)
    with services.database.snapshot() as transaction:
        job = jobs.get(transaction, owner.id, job_id)
        if accepts(request.headers.get("accept"), NDJSON):
            headers = {"X-Incomplete": "false" if job.finished_at else "true"}
            return StreamingResponse(  # type: ignore[return-value]  # not what the schema describes
                _lines(services, job_id, number, issue or ()), media_type=NDJSON, headers=headers
            )
        page = results.finished_after(
            transaction, job_id, number=number, limit=limit + 1, issues=issue or ()
        )
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


def _lines(services: Services, job_id: str, number: int, issues: Sequence[str]) -> Iterator[bytes]:
    pages = results.pages_as_finished(
        services.database, job_id, PAGE_LIMIT, number=number, issues=issues
    )
    for page in pages:
        yield b"".join(item.line() for item in page)


@router.get("/{job_id}/results.jsonl", response_class=StreamingResponse)
def get_results_file(
    job_id: str, services: Parts, owner: CurrentOwner, issue: IssueFilter = None
) -> StreamingResponse:
    """Return all results of a finished job, in the order of the submission."""
    with services.database.snapshot() as transaction:
        job = jobs.get(transaction, owner.id, job_id)
    if job.finished_at is None:
        raise NotReady(f"job {job_id} is {job.state}; its results so far are at …/results")
    if job.results_key and not issue:
        shown = pieces(services.store.open(job.results_key))
    else:  # some of them, or upkeep has not written the file yet
        shown = _lines_in_order(services, job_id, issue or ())
    name = f'attachment; filename="{job_id}.jsonl"'
    return StreamingResponse(shown, media_type=NDJSON, headers={"Content-Disposition": name})


def _lines_in_order(services: Services, job_id: str, issues: Sequence[str]) -> Iterator[bytes]:
    for page in results.pages_in_order(services.database, job_id, PAGE_LIMIT, issues=issues):
        yield b"".join(item.line() for item in page)


@router.get("/{job_id}/items/{index}")
def get_item(job_id: str, index: Index, services: Parts, owner: CurrentOwner) -> dict[str, Any]:
    """Return one item in any state."""
    with services.database.snapshot() as transaction:
        item: Item = results.get(transaction, owner.id, job_id, index)
    return {**item.public(), "stage": item.stage, "request": shown(item.request or {})}
