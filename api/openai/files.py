"""OpenAI's files: inputs and outputs of batches."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.audit import record_action
from api.guard import NDJSON
from api.header_fields import media_type
from api.images import check_room
from api.openai.schemas import FileOut, FilePage
from api.services import CurrentOwner, Parts, Services, Submitter
from api.streams import stored_blob
from db.audit import AuditAction
from db.blobs.store import file_key
from db.openai import batches, files
from db.openai.batch import Batch
from db.openai.files import File, NewFile
from db.queue import results
from db.queue.jobs import new_id
from db.vocabulary.errors import NotFound, RequestError, WrongMediaType
from db.vocabulary.field_types import no_nul
from db.vocabulary.openai_rendering import line
from db.vocabulary.validation_errors import request_error

router = APIRouter(prefix="/v1/files", tags=["OpenAI"])

CONTENT_RESULTS = 1_000
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


class FileIn(BaseModel):
    """Form fields beside the file."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["batch"]
    anchor: Literal["created_at"] = Field("created_at", alias="expires_after[anchor]")
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)] | None = Field(
        None, alias="expires_after[seconds]"
    )


@router.post("", openapi_extra=_BODY)
async def upload(request: Request, services: Parts, owner: CurrentOwner) -> FileOut:
    """Upload a batch's input: JSON Lines, as large as the service's limit for streams."""
    if media_type(request.headers.get("content-type")) != "multipart/form-data":
        raise WrongMediaType("send the file as multipart/form-data, in a part named `file`")
    async with request.form(max_files=1, max_fields=8) as form:
        fields = dict(form)
        file = fields.pop("file", None)
        if not isinstance(file, UploadFile):
            raise RequestError("no part named `file` with a file in it", field="file")
        try:
            form_fields = FileIn.model_validate(fields)
        except ValidationError as error:
            raise request_error(error, fields) from error
        return await run_in_threadpool(_store, services, owner.id, file, form_fields)


def _store(services: Services, owner_id: int, file: UploadFile, form_fields: FileIn) -> FileOut:
    if not file.size:
        raise RequestError("the file is empty", field="file")
    filename = (file.filename or "")[:200]
    try:
        no_nul(filename).encode()
    except ValueError as error:  # before anything is stored
        raise RequestError(f"invalid file name: {error}", field="file") from error
    check_room(services, owner_id, file.size)
    file_id = new_id("file-")
    services.store.put(file_key(owner_id, file_id), file.file)
    new = NewFile(
        file_id,
        owner_id,
        filename=filename,
        purpose=form_fields.purpose,
        size_bytes=file.size,
        expires_seconds=form_fields.seconds,
    )
    with services.database.transaction() as transaction:
        return FileOut.of(files.add(transaction, new))


@router.get("")
def list_files(
    services: Parts,
    owner: CurrentOwner,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> FilePage:
    """List the owner's files."""
    with services.database.snapshot() as transaction:
        found = files.page(
            transaction,
            owner.id,
            purpose=purpose,
            newest_first=order == "desc",
            beyond=after,
            limit=limit + 1,
        )
    return FilePage.of([FileOut.of(file) for file in found[:limit]], more=len(found) > limit)


@router.get("/{file_id}")
def get_file(file_id: str, services: Parts, owner: CurrentOwner) -> FileOut:
    """Return a file's facts; of a running batch too, whose files have no size yet."""
    found = _find(services, owner.id, file_id)
    return FileOut.growing(found, file_id) if isinstance(found, Batch) else FileOut.of(found)


@router.delete("/{file_id}")
def delete_file(file_id: str, services: Parts, caller: Submitter) -> dict[str, Any]:
    """Delete a file. A batch that was created from it continues, once its lines are checked."""
    with services.database.transaction() as transaction:
        file = files.get(transaction, caller.owner.id, file_id)
        record_action(transaction, caller, AuditAction.DELETE_FILE, file.id, filename=file.filename)
    services.store.delete(file_key(caller.owner.id, file.id))
    with services.database.transaction() as transaction:
        files.remove(transaction, caller.owner.id, file.id)
    return {"id": file.id, "object": "file", "deleted": True}


@router.get("/{file_id}/content", response_class=StreamingResponse)
def get_content(request: Request, file_id: str, services: Parts, owner: CurrentOwner) -> Response:
    """Return a file's bytes, or a range; of a running batch, the lines so far (`X-Incomplete`)."""
    found = _find(services, owner.id, file_id)
    if isinstance(found, Batch):
        return _so_far(services, found, file_id)
    key = file_key(owner.id, found.id)
    return stored_blob(request, services.store, key, size=found.size_bytes, media_type=NDJSON)


def _find(services: Services, owner_id: int, file_id: str) -> File | Batch:
    """Return a file, or the running batch that will end with it."""
    # One snapshot for both: the batch may be finalized between two.
    with services.database.snapshot() as transaction:
        try:
            return files.get(transaction, owner_id, file_id)
        except NotFound:
            return batches.unfinished(transaction, owner_id, file_id)


def _so_far(services: Services, batch: Batch, file_id: str) -> StreamingResponse:
    answered = file_id == batches.part_id(batch.id, "output")
    lines = _lines(services, batch, answered=answered)
    return StreamingResponse(lines, media_type=NDJSON, headers={"X-Incomplete": "true"})


def _lines(services: Services, batch: Batch, *, answered: bool) -> Iterator[bytes]:
    if batch.job_id is None:
        return
    for page in results.pages_as_finished(services.database, str(batch.job_id), CONTENT_RESULTS):
        yield b"".join(
            line(item, str(batch.job_id), str(batch.model), expired=batch.expired_at is not None)
            for item in page
            if (item.answer is not None) == answered
        )
