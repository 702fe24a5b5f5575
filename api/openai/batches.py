"""OpenAI's batches. Every line is checked when the batch is created, so errors show at once.

input file ─▶ read, check, make canonical ─▶ no mistakes: spool ─▶ batch and job, in_progress
                                          ─▶ mistakes: batch, failed, each with its line
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Header, Query, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from starlette.concurrency import run_in_threadpool

from api.errors import request_error
from api.openai.requests import ChatIn
from api.openai.schemas import BatchOut, BatchPage
from api.schemas import CustomId, JobIn
from api.services import CurrentOwner, Parts, Services
from api.submissions import ItemChecker, SpoolWriter, check_quota
from db import batches, files
from db.batches import NewBatch
from db.blobs import file_key
from db.errors import QuotaExceeded, RequestError, TooLarge
from db.states import SourceApi
from db.submissions import NewJob
from workers.broker import UPKEEP

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"])

#: Mistakes told of one file; reading ends there.
MAX_MISTAKES = 100
#: Input files are read two at a time, so that long ones leave threads for everybody else.
_READING = anyio.Semaphore(2)
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchIn"}}},
    }
}


class ExpiresAfter(BaseModel):
    """When the files that a batch writes are deleted."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


def _window(given: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}[mhd]", given):
        raise ValueError(
            f"invalid window: {given!r}; expected minutes, hours or days, such as 30m, 24h, 7d"
        )
    return given


class BatchIn(BaseModel):
    """A batch to create."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Annotated[str, AfterValidator(_window)] = Field(
        description="Minutes, hours or days, such as 24h; then it expires, with what it has"
    )
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_seconds(self) -> int:
        """Length of the completion window."""
        return int(self.completion_window[:-1]) * _SECONDS[self.completion_window[-1]]


class LineIn(BaseModel):
    """A line of an input file."""

    model_config = ConfigDict(extra="forbid")

    custom_id: CustomId
    method: Literal["POST"]
    url: str
    body: ChatIn


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
    async with _READING:
        return await run_in_threadpool(_create, services, new, again)


def _create(services: Services, new: NewBatch, again: bool) -> BatchOut:
    with services.database.transaction() as transaction:
        if earlier := batches.find_same(transaction, new, again=again):
            return BatchOut.of(earlier)
        file = files.get(transaction, new.owner_id, new.input_file_id)
    if file.purpose != "batch":
        raise RequestError(f"{file.id} is not the input file of a batch", field="input_file_id")
    with Input(services, new.owner_id, new.endpoint) as lines:
        with services.store.open(file_key(new.owner_id, file.id)) as stream:
            lines.read(stream)
        return lines.submit(new, again=again)


class Input:
    """Reads an input file: collects its errors, and its items in canonical form."""

    def __init__(self, services: Services, owner_id: int, endpoint: str) -> None:
        self._services, self._owner_id, self._endpoint = services, owner_id, endpoint
        self._lines = SpoolWriter()
        self._mistakes: list[dict[str, Any]] = []
        # On disk when it grows: as many names as there are lines.
        self._seen = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._seen.execute("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._seen.execute("BEGIN")
        self._model = ""
        self._checker: ItemChecker | None = None

    def __enter__(self) -> "Input":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._seen.close()

    def read(self, stream: IO[bytes]) -> None:
        """Check every line, until there are MAX_MISTAKES errors."""
        for number, line in _numbered(stream, self._services.settings.max_line_bytes):
            try:
                self._take(line)
            except ValidationError as error:
                self._note(number, request_error(error, line))
            except RequestError as error:
                if not _is_of_a_line(error):
                    raise
                self._note(number, error)
            if len(self._mistakes) >= MAX_MISTAKES:
                return
        if not self._lines.count and not self._mistakes:
            self._note(None, RequestError("the file has no lines"))

    def submit(self, new: NewBatch, *, again: bool) -> BatchOut:
        """Make the batch durable."""
        job = None
        key = ""
        if not self._mistakes:
            assert self._checker
            key = self._lines.store(self._services.store, self._owner_id)
            job = NewJob(
                self._owner_id,
                self._checker.card.name,
                self._checker.defaults,
                spool_key=key,
                spool_lines=self._lines.count,
                source_api=SourceApi.BATCH,
            )
        whole = replace(
            new,
            lines=self._lines.count,
            model=job.model if job else self._model or None,
            errors=self._mistakes or None,
        )
        created = False
        try:
            with self._services.database.transaction() as transaction:
                if job:
                    check_quota(transaction, self._services, job, self._lines.count)
                batch, created = batches.create_once(transaction, whole, job, again=again)
        except RequestError:
            self._forget(key)
            raise
        if not created:
            self._forget(key)
        self._services.wakes.wake(UPKEEP)
        return BatchOut.of(batch)

    def _forget(self, key: str) -> None:
        if key:
            self._services.store.delete(key)

    def _take(self, line: bytes) -> None:
        given = LineIn.model_validate_json(line)
        if given.url != self._endpoint:
            raise RequestError(f"{given.url!r} is not the batch's endpoint", field="url")
        if given.body.stream:
            raise RequestError("stream is not allowed in a batch", field="body.stream")
        try:
            self._seen.execute("INSERT INTO seen VALUES (?)", (given.custom_id,))
        except sqlite3.IntegrityError as error:
            raise RequestError(
                f"duplicate custom_id: {given.custom_id!r}", field="custom_id"
            ) from error
        try:
            checker = self._checker_of(given.body.model)
            item = checker.check(given.body.item(checker.card, given.custom_id))
        except ValidationError as error:
            raise _within_body(request_error(error)) from error
        except QuotaExceeded:
            raise
        except RequestError as error:
            raise _within_body(error) from error
        self._lines.add(item)
        if self._lines.count > (most := self._services.settings.max_lines):
            raise TooLarge(f"the file has more than {most} lines")

    def _checker_of(self, model: str) -> ItemChecker:
        if self._checker is None:
            self._model = model
            name = self._services.settings.model_aliases.get(model, model)
            self._checker = ItemChecker(self._services, self._owner_id, JobIn(model=name))
        if model != self._model:
            raise RequestError(
                f"{model!r} here and {self._model!r} before: a batch has one model", field="model"
            )
        return self._checker

    def _note(self, number: int | None, error: RequestError) -> None:
        self._mistakes.append(
            {"code": error.code, "line": number, "message": str(error), "param": error.field}
        )


def _is_of_a_line(error: RequestError) -> bool:
    """True if an error concerns one line, and not the whole file or the owner."""
    of_all = isinstance(error, TooLarge) and error.field is None
    return not of_all and not isinstance(error, QuotaExceeded)


def _within_body(error: RequestError) -> RequestError:
    error.field = f"body.{error.field}" if error.field else "body"
    return error


def _numbered(stream: IO[bytes], most: int) -> Iterator[tuple[int, bytes]]:
    """Yield non-empty lines with their numbers; a longer one is cut, and so is not JSON."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        rest = line
        while len(rest) > most and not rest.endswith(b"\n"):
            rest = stream.readline(most + 1)
        if line.strip():
            yield number, line


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
